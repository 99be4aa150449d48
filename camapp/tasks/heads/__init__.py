"""Heads of detectors, one file each: how the outputs of a family of nets encode boxes, points and masks."""
