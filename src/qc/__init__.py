"""Question classification: the library behind the pipeline's stages."""
