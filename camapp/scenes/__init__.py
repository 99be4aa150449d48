"""Pure generators of pictures with their exact truth: the same seed and index give the same picture."""
