"""The stages of a run, started in order and stopped in reverse."""
