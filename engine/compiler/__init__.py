"""From a graph to a plan: checks, folds, fuses, chooses kernels and places buffers."""
