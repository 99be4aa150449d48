"""The track net on generated scenes alone: no real photograph takes part. About two hours of one quiet core."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(name="track", net="track", epochs=40, pictures=2000, batch=32, learning_rate=2e-3, seed=46)
