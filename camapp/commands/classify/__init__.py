"""The classify command labels image files and folders, and writes the results."""
