"""Where predictions and drawn images go; none of them ever blocks the pipeline."""
