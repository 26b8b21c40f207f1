"""qc export: a trained model as an ONNX file."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from qc.artifacts import read_table, replaced_files
from qc.batching import Questions
from qc.commands import MODELS
from qc.errors import QcError
from qc.export import FILES, INT8, MODEL, export_onnx, onnx_logits, open_onnx
from qc.metrics import evaluate_accuracy
from qc.prediction import Predictor, load
from qc.training import predict

VALID = Path("data/split/valid.parquet")
TOLERANCE = 1e-4  # of a logit


def run(arguments: Namespace) -> int:
    """Export, hold what was written against PyTorch on the validation split, print size and speed; the exit status."""
    predictor = load(MODELS / arguments.model)
    folder = arguments.out or Path("export") / arguments.model
    if folder.exists() and not (folder.is_dir() and ((folder / MODEL).is_file() or not any(folder.iterdir()))):
        raise QcError(f"{folder}: is there, and is no export; name another folder with --out")
    valid = read_table(VALID, "text", "label").to_pydict()
    questions = predictor.classifier.encode(predictor.tokenize(valid["text"]), valid["label"])
    with replaced_files(folder, FILES) as temporary:  # an earlier export stays where this one is not as it must be
        export_onnx(predictor, temporary, arguments.int8)
        compare(predictor, questions, temporary, arguments.int8)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def compare(predictor: Predictor, questions: Questions, folder: Path, int8: bool) -> None:
    """Print accuracy, size and speed of what was exported to a folder, beside PyTorch's accuracy.

    Raises:
        QcError: Logits of model.onnx are not PyTorch's.
    """

    def accuracy(logits: np.ndarray) -> float:
        return evaluate_accuracy(logits.argmax(axis=1), questions.labels.numpy())["accuracy"]

    expected = predict(predictor.model, questions).numpy()
    print(f"PyTorch          accuracy {accuracy(expected):.3f} on {len(questions)} validation questions")
    for name in (MODEL, INT8) if int8 else (MODEL,):
        session = open_onnx(folder / name)
        onnx_logits(session, questions)  # the first run makes room
        found, seconds = onnx_logits(session, questions)
        size = (folder / name).stat().st_size / 2**20
        print(
            f"{name:<16} accuracy {accuracy(found):.3f}, {size:.1f} MiB, "
            f"{len(questions) / seconds:,.0f} questions a second"
        )
        worst = float(np.abs(found - expected).max())
        if name == MODEL and worst > TOLERANCE:
            raise QcError(f"{name}: its logits are up to {worst:.1e} from PyTorch's, more than {TOLERANCE:g}")
