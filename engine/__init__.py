"""The NumPy CNN engine: imports only NumPy and the standard library, and knows nothing of cameras."""
