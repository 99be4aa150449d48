"""Real-time camera vision for the Raspberry Pi: frames in, predictions of a NumPy CNN out."""

__version__ = "0.1.0"
