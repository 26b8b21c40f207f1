"""train_prefix: train a prefix and a head on a frozen encoder.

Reads data/split, data/tokenized, data/encoders. Writes models/prefix, metrics/train_prefix.json,
plots/train_prefix.csv.
"""

from qc.config.settings import Settings
from qc.paths import Folders
from qc.stage import run


def main(settings: Settings) -> None:
    """Train a prefix and a head on a frozen encoder."""
    from qc.training.run import run_training

    run_training("prefix", settings, Folders())


if __name__ == "__main__":
    run(main)
