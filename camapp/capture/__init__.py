"""Provides sources of frames, one file for each device, and the thread that reads them."""
