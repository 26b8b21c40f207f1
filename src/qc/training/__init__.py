"""The training loop, its optimizer, checkpoints and precomputed layers."""
