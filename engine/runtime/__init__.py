"""Provides tools for a loaded model: shared memory, conversion, profiling."""
