"""What a model's numbers mean, both ends of it: a frame into model input, outputs into a Prediction."""
