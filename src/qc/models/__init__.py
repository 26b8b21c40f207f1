"""The model families: each file holds one, and knows nothing of files, stages or training."""
