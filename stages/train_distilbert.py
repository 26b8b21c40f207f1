"""train_distilbert: data/split/{train,valid}.parquet, an encoder -> models/distilbert

Figures go to metrics/train_distilbert.json and plots/train_distilbert.csv.
"""

from qc.models.distilbert import DistilbertClassifier
from qc.settings import Settings
from qc.training import seed_everything
from stages.entry import run
from stages.pretrained import load_pretrained
from stages.training import describe_classes, train


def main(settings: Settings) -> None:
    """Fine-tune the last layers of an encoder, or all of it, and a head."""
    own = settings.train_distilbert
    seed_everything(settings.seed, settings.threads)
    encoder, config = load_pretrained(settings, own, own.trainable_layers)
    sizes = {
        "head_width": own.head_width,
        "dropout": own.dropout,
        "pooling": own.pooling,
        **describe_classes(own),
    }
    model = DistilbertClassifier(encoder, **sizes)
    train("distilbert", model, {**config, "sizes": sizes}, settings, own)


if __name__ == "__main__":
    run(main)
