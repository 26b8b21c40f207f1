"""train_scratch: data/split/{train,valid}.parquet -> models/scratch

Figures go to metrics/train_scratch.json and plots/train_scratch.csv.
"""

from dataclasses import asdict

from qc.batching import seen_tokens
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.settings import Settings
from qc.training import seed_everything
from stages.entry import run
from stages.training import TRAIN, describe_classes, kept_tokens, load_split, load_vocabulary, train


def main(settings: Settings) -> None:
    """Train a transformer encoder from nothing."""
    own = settings.train_scratch
    seed_everything(settings.seed, settings.threads)
    vocabulary = load_vocabulary(own.tokenizer)
    sizes = ScratchConfig(
        vocab_size=vocabulary["size"],
        **describe_classes(own),
        width=own.width,
        heads=own.heads,
        ff_width=own.ff_width,
        layers=own.layers,
        max_length=kept_tokens(settings, own),
        dropout=own.dropout,
        norm=own.norm,
        mask_padding=own.mask_padding,
        unknown_id=vocabulary["unknown_id"],
        pad_id=vocabulary["pad_id"],
    )
    train_split = load_split(TRAIN, vocabulary, sizes.max_length, keep_special=False)
    tokens = seen_tokens(train_split, own.min_count) if own.min_count else None
    model = ScratchClassifier(sizes, tokens)
    config = {"vocabulary": vocabulary, "special_tokens": False, "files": {}, "sizes": asdict(sizes)}
    train("scratch", model, config, settings, own)


if __name__ == "__main__":
    run(main)
