"""The stages of dvc.yaml, one script each; `python -m stages.NAME` runs one from the top of the repository."""
