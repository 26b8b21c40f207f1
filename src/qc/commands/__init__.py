"""What `qc COMMAND` does, a file a command; and where things are, seen from the top of the repository.

Like the stages, and unlike the rest of `qc`, commands read params.yaml and know where outputs are.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
MODELS = Path("models")
METRICS = Path("metrics")
