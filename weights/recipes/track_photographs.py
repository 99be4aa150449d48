"""Continues the track net from `track` with labelled photographs among the generated scenes. A quarter of an hour."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(
    name="track_photographs",
    net="track",
    epochs=14,
    images=800,
    uses=4,
    batch=32,
    learning_rate=0.015,
    photographs=1000,
    start="runs/track.npz",
    seed=49,
)
