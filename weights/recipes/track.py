"""The track net on generated scenes alone: no real photograph takes part. An hour of a core and half of another."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(name="track", net="track", epochs=40, images=1500, uses=8, batch=32, learning_rate=0.05, seed=52)
