"""Write a trained model as one ONNX file, for programs without PyTorch.

    input_ids (B, T) int64, attention_mask (B, T) int64 -> logits (B, classes) fp32

The encoder and the trained part are one graph; batch size and length are free, up to the model's longest text. The
folder also gets tokenizer.json and config.json: classes, the padding id, the longest text. The file's logits are
compared with PyTorch's on the validation split.
"""

import contextlib
import logging
import shutil
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qc.commands.predict import model_folder
from qc.errors import QcError
from qc.evaluation.metrics import evaluate_accuracy
from qc.files import CONFIG, TOKENIZER, new_folder, write_json
from qc.inference.batches import PackedDataset, bucket_by_length
from qc.inference.logits import evaluation_batch, predict
from qc.inference.predictor import Predictor, load
from qc.paths import EXPORT, SPLIT
from qc.questions.tables import VALID, QuestionTable

MODEL, INT8 = "model.onnx", "model.int8.onnx"
FILES = (MODEL, INT8, CONFIG, TOKENIZER)  # files of an export; others in its folder stay
TOLERANCE = 1e-4  # of a logit


class _Graph(nn.Module):
    """A model up to the logits of the coarse classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.output_layer.coarse_logits(self.model(input_ids, attention_mask.bool()))


def export_onnx(predictor: Predictor, folder: Path, int8: bool) -> None:
    """Write model.onnx, tokenizer.json and config.json to an empty folder.

    Args:
        predictor: The model; it is moved to the CPU.
        folder: An empty folder.
        int8: Also write model.int8.onnx, with matrices quantized to 8 bits.
    """
    graph = _Graph(predictor.model.cpu()).eval()
    trained, vocabulary = predictor.trained, predictor.trained.vocabulary
    special = sum(vocabulary.special_counts) if trained.model.special_tokens else 0
    longest = trained.max_length + special
    example = min(9, longest)
    ids, mask = torch.ones(2, example, dtype=torch.long), torch.ones(2, example, dtype=torch.long)
    mask[1, (example + 1) // 2 :] = 0
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=longest) if longest > 2 else longest
    with _quiet():
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            torch.onnx.export(
                graph,
                (ids, mask),
                folder / MODEL,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        _strip_metadata(folder / MODEL)
        if int8:
            quantize_dynamic(folder / MODEL, folder / INT8, weight_type=QuantType.QInt8)
        predictor.tokenizer.save(str(folder / TOKENIZER))
        write_json(
            folder / CONFIG,
            {
                "classes": predictor.classes,
                "lowercase": vocabulary.lowercase,
                "max_length": trained.max_length,
                "pad_id": vocabulary.pad_id,
                "add_special_tokens": trained.model.special_tokens,
                "special_tokens": special,
            },
        )


def _strip_metadata(path: Path) -> None:
    """Remove the exporter's notes from a file: stack traces with paths of this machine."""
    content = onnx.load(path)
    for node in content.graph.node:
        node.ClearField("metadata_props")
    onnx.save(content, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about other packages and shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    """Open an exported file for the CPU."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def onnx_logits(session: onnxruntime.InferenceSession, questions: PackedDataset) -> tuple[np.ndarray, float]:
    """Compute the logits (N, classes) of questions, in their order; also the seconds it took."""
    logits, seconds = [], 0.0
    plan = bucket_by_length(questions.lengths, evaluation_batch(questions.device))
    for batch in questions.batches(plan):
        mask = torch.ones_like(batch.inputs) if batch.mask is None else batch.mask.long()
        inputs = {"input_ids": batch.inputs.numpy(), "attention_mask": mask.numpy()}
        begin = time.perf_counter()
        logits += session.run(["logits"], inputs)
        seconds += time.perf_counter() - begin
    return np.concatenate(logits)[torch.cat(plan).argsort()], seconds


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--model", required=True, help="a trained model: its name, such as distilbert, or its folder")
    parser.add_argument("--int8", action="store_true", help="write one with 8-bit matrices too, and say what it costs")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="default: export/MODEL; an earlier export is replaced"
    )


def run(arguments: Namespace) -> int:
    """Export, compare with PyTorch on the validation split, print size and speed; the exit status."""
    model = model_folder(arguments.model)
    predictor = load(model)
    folder = arguments.out or EXPORT / model.name
    if folder.exists() and not (folder.is_dir() and ((folder / MODEL).is_file() or not any(folder.iterdir()))):
        raise QcError(f"{folder}: exists and is no export; name another folder with --out")
    valid = QuestionTable.read(SPLIT / predictor.trained.vocabulary.tokenizer / VALID, "label", "input_ids")
    questions = predictor.trained.pack(valid.input_ids, valid.labels)
    with new_folder(folder.resolve()) as temporary:  # an earlier export stays if this one fails
        export_onnx(predictor, temporary, arguments.int8)
        compare(predictor, questions, temporary, arguments.int8)
        if folder.exists():
            replaced = {str(folder): FILES}
            shutil.copytree(
                folder, temporary, symlinks=True, dirs_exist_ok=True, ignore=lambda place, _: replaced.get(place, ())
            )
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def compare(predictor: Predictor, questions: PackedDataset, folder: Path, int8: bool) -> None:
    """Print accuracy, size and speed of an export, beside PyTorch's accuracy.

    Raises:
        QcError: The logits of model.onnx differ from PyTorch's.
    """

    def accuracy(logits: np.ndarray) -> float:
        return evaluate_accuracy(logits.argmax(axis=1), questions.labels.numpy())["accuracy"]

    expected = predict(predictor.model, questions).numpy()
    print(f"PyTorch          accuracy {accuracy(expected):.3f} on {len(questions)} validation questions")
    for name in (MODEL, INT8) if int8 else (MODEL,):
        session = open_onnx(folder / name)
        onnx_logits(session, questions)  # the first run allocates memory
        found, seconds = onnx_logits(session, questions)
        size = (folder / name).stat().st_size / 2**20
        print(
            f"{name:<16} accuracy {accuracy(found):.3f}, {size:.1f} MiB, "
            f"{len(questions) / seconds:,.0f} questions a second"
        )
        worst = float(np.abs(found - expected).max())
        if name == MODEL and worst > TOLERANCE:
            raise QcError(
                f"{name}: its logits differ from PyTorch's by up to {worst:.1e}; expected at most {TOLERANCE:g}"
            )
