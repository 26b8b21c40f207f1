"""train_distilbert: data/split/{train,valid}.parquet, an encoder -> models/distilbert

Figures go to metrics/train_distilbert.json and plots/train_distilbert.csv.
"""

from qc.errors import QcError
from qc.models.distilbert import DistilbertClassifier
from qc.settings import Settings
from qc.training import seed_everything
from stages.entry import run
from stages.pretrained import load_pretrained
from stages.training import describe_classes, train


def main(settings: Settings) -> None:
    """Fine-tune the last layers of an encoder, and a head."""
    own = settings.train_distilbert
    seed_everything(settings.seed, settings.threads)
    encoder, config = load_pretrained(settings, own)
    if own.trainable_layers > len(encoder.layers):
        raise QcError(
            f"params.yaml: train_distilbert.trainable_layers: {own.trainable_layers} is not possible; "
            f"allowed: 0 to {len(encoder.layers)}, the layers of {own.encoder}"
        )
    sizes = {
        "trainable_layers": own.trainable_layers,
        "head_width": own.head_width,
        "dropout": own.dropout,
        "pooling": own.pooling,
        **describe_classes(own),
    }
    model = DistilbertClassifier(encoder, **sizes)
    train("distilbert", model, {**config, "sizes": sizes}, settings, own)


if __name__ == "__main__":
    run(main)
