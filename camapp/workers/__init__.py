"""Worker processes that run the CNN over shared memory."""
