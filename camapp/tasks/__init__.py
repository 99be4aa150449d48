"""What the numbers of a model mean: image to model input, outputs to a Prediction."""
