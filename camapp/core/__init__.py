"""Provides plain data and small tools that everything else uses."""
