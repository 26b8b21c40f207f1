"""train_scratch: train a transformer from scratch.

Reads data/split, data/tokenized. Writes models/scratch, metrics/train_scratch.json,
plots/train_scratch.csv.
"""

from qc.config.settings import Settings
from qc.paths import Folders
from qc.stage import run


def main(settings: Settings) -> None:
    """Train the transformer from scratch."""
    from qc.training.run import run_training

    run_training("scratch", settings, Folders())


if __name__ == "__main__":
    run(main)
