"""The track net on generated scenes alone: no real photograph takes part. Two and a half hours of a core."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(name="track", net="track", epochs=120, images=1500, uses=8, batch=32, learning_rate=2e-3, seed=51)
