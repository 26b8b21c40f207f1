"""Trained models in use: model folders, logits, and text in, probabilities out."""
