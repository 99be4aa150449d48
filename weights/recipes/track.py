"""The track net on generated scenes alone: no real photograph takes part. About an hour on two quiet cores."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(net="track", epochs=30, pictures=8000, batch=32, learning_rate=3e-3)
