"""Real-time camera vision for the Raspberry Pi: frames in, predictions of a NumPy CNN out."""

import os

__version__ = "0.1.0"

# An image of a few MB may unpack to gigabytes. The largest that cameras take have 200 million pixels; OpenCV's own
# limit is four times ours, and it looks for another one only once, when it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
