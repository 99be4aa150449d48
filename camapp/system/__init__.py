"""Wraps what the operating system provides: processes, shared frames, systemd, health, displays."""
