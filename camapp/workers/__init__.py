"""A pool of processes that run the net over shared memory."""
