"""Where results go, one file each."""
