"""The page: a live picture and what is seen in it, for browsers; served by a process of its own."""
