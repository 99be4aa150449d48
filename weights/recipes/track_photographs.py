"""Continues the track net from `track` with labelled photographs among the generated scenes. A quarter of an hour."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(
    name="track_photographs",
    net="track",
    epochs=10,
    images=600,
    uses=4,
    batch=32,
    learning_rate=0.015,
    photographs=1000,
    # Pictures whose licence allows it, or that are labelled for training.
    parts=("train", "field/carnd1", "field/criscola"),
    start="runs/track.npz",
    seed=49,
)
