"""train_prefix: data/split/{train,valid}.parquet, an encoder -> models/prefix

Figures go to metrics/train_prefix.json and plots/train_prefix.csv.
"""

from qc.models.prefix import PrefixClassifier
from qc.settings import Settings
from qc.training import seed_everything
from stages.entry import run
from stages.pretrained import load_pretrained
from stages.training import describe_classes, train


def main(settings: Settings) -> None:
    """Train a prefix and a head on a frozen encoder."""
    own = settings.train_prefix
    seed_everything(settings.seed, settings.threads)
    sizes = {"prefix_length": own.prefix_length or 0, **describe_classes(own)}
    encoder, config = load_pretrained(settings, own, prefix_length=sizes["prefix_length"])
    model = PrefixClassifier(encoder, **sizes, prefix_std=own.prefix_std)
    train("prefix", model, {**config, "sizes": sizes}, settings, own)


if __name__ == "__main__":
    run(main)
