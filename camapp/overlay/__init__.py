"""Draws a Prediction and the statistics on an image."""
