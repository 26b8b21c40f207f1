"""params.yaml, data/sources.yaml and presets as checked values."""
