"""Tools around a loaded model: shared memory, conversion, profiling."""
