"""Draws on pictures what was seen in them, and how the run is doing."""
