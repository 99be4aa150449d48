"""Continues a track net with labelled photographs among the generated scenes. Five minutes."""

from weights.recipe import TrackRecipe

RECIPE = TrackRecipe(
    name="track_photographs",
    net="track",
    epochs=8,
    images=500,
    uses=6,
    batch=32,
    learning_rate=0.01,
    photographs=250,
    # Pictures whose licence allows it, or that are labelled for training.
    parts=("train", "field/carnd1", "field/criscola"),
    # The file that shipped before: weights/track.npz of commit 51d7bbf.
    start="weights/track.npz",
    gain=1.15,
    validation=200,
    seed=49,
)
