"""Compiles a graph to a plan: checks, folds, fuses, selects kernels and places buffers."""
