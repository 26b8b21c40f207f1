"""train_distilbert: fine-tune an encoder and a head.

Reads data/split, data/tokenized, data/encoders. Writes models/distilbert, metrics/train_distilbert.json,
plots/train_distilbert.csv.
"""

from qc.config.settings import Settings
from qc.paths import Folders
from qc.stage import run


def main(settings: Settings) -> None:
    """Fine-tune the last layers of an encoder, or all of it, and a head."""
    from qc.training.run import run_training

    run_training("distilbert", settings, Folders())


if __name__ == "__main__":
    run(main)
