"""Outputs of predictions and drawn images, one file each; none ever blocks the pipeline."""
