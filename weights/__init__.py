"""The parameter files that ship, and how each was made: training in PyTorch, evaluation with the NumPy engine."""


class WeightsError(Exception):
    """A data set, recipe or training run cannot be used; the message says what to do."""
