"""One module for each sub-command; only cli.py imports them."""
