"""Write a trained model in the layout that Hugging Face's tools open, for programs without PyTorch.

    onnx/model.onnx     input_ids (B, T) int64, attention_mask (B, T) int64 -> logits (B, classes) fp32
    config.json, tokenizer.json, tokenizer_config.json, special_tokens_map.json

Notable:
- encoder, trained part and fitted temperature are one graph: the softmax of its logits is calibrated
- the graph cuts texts longer than the model reads, as in training, whatever the tool has cut before
- its logits are compared with PyTorch's on the validation split
"""

import contextlib
import logging
import shutil
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence
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

MODEL, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
LARGE = f"{MODEL}.data"  # the weights, where they are more than a file of protobuf holds
EXPORTED = (MODEL, LARGE, INT8, CONFIG, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS)  # others in the folder stay
INPUTS = ["input_ids", "attention_mask"]
FAMILY, CLASS = "distilbert", "DistilBertForSequenceClassification"  # whatever the encoder: a class with these inputs
TOLERANCE = 1e-4  # of a logit


class _Graph(nn.Module):
    """A model from the ids of any tool to calibrated logits of the coarse classes."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.longest = predictor.model, longest(predictor)
        self.temperature = predictor.trained.temperature or 1.0
        after = predictor.trained.vocabulary.after if self.model.special_tokens else []
        self.register_buffer("after", torch.tensor(after, dtype=torch.long))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, T) -> (B, classes)."""
        ids, mask = input_ids[:, : self.longest], attention_mask[:, : self.longest].bool()
        if len(self.after):  # transformers.js cuts them off with the end of a long text
            place = torch.arange(ids.shape[1]) - (self.longest - len(self.after))  # among them, from 0
            full = attention_mask.sum(dim=1, keepdim=True) >= self.longest
            ids = torch.where(full & (place >= 0), self.after[place.clamp_min(0)], ids)
        return self.model.output_layer.coarse_logits(self.model(ids, mask)) / self.temperature


def longest(predictor: Predictor) -> int:
    """Most tokens that the model reads, special tokens included."""
    special = predictor.trained.vocabulary.special_counts if predictor.model.special_tokens else ()
    return predictor.trained.max_length + sum(special)


def export_onnx(predictor: Predictor, folder: Path, int8: bool) -> None:
    """Write the files of an export.

    Args:
        predictor: The model; it is moved to the CPU.
        folder: An empty folder.
        int8: Also write the model with its matrices quantized to 8 bits.
    """
    predictor.model.cpu()
    ids, mask = torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long)  # an example
    mask[1, 5:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    (folder / MODEL).parent.mkdir()
    with warnings.catch_warnings(action="ignore"), _quiet():
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                _Graph(predictor).eval(),
                (ids, mask),
                input_names=INPUTS,
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(INPUTS, axes),
                dynamo=True,
                verbose=False,
            )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with paths of this machine
        program.save(folder / MODEL)
        if int8:
            if (folder / LARGE).exists():
                raise QcError("--int8: the model has more than 1.5 GiB of weights; expected a smaller one")
            quantize_dynamic(folder / MODEL, folder / INT8, weight_type=QuantType.QInt8)
    names = dict(enumerate(predictor.classes))
    write_json(
        folder / CONFIG,
        {
            "model_type": FAMILY,
            "architectures": [CLASS],
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": "single_label_classification",
        },
    )
    _write_tokenizer(predictor, folder)


def _write_tokenizer(predictor: Predictor, folder: Path) -> None:
    """Write the tokenizer with all that is done to a text before and after it."""
    vocabulary, most = predictor.trained.vocabulary, longest(predictor)
    tokenizer = Tokenizer.from_str(predictor.tokenizer.to_str())
    special_tokens = {"pad_token": tokenizer.id_to_token(vocabulary.pad_id)}
    tokenizer.enable_truncation(most)
    tokenizer.enable_padding(pad_id=vocabulary.pad_id, **special_tokens)
    if vocabulary.lowercase:
        tokenizer.normalizer = Sequence([*filter(None, [Lowercase(), tokenizer.normalizer])])
    if not predictor.model.special_tokens:
        tokenizer.post_processor = None  # which adds them
    tokenizer.save(str(folder / TOKENIZER))
    write_json(folder / SPECIAL_TOKENS, special_tokens)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": most, "model_input_names": INPUTS}
    write_json(folder / TOKENIZER_CONFIG, config | special_tokens)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters log about other packages and shapes."""
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
        inputs = dict(zip(INPUTS, (batch.inputs.numpy(), mask.numpy()), strict=True))
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
        raise QcError(
            f"{folder}: exists and is no export of this version; remove it, or name another folder with --out"
        )
    valid = QuestionTable.read(SPLIT / predictor.trained.vocabulary.tokenizer / VALID, "label", "input_ids")
    questions = predictor.trained.pack(valid.input_ids, valid.labels)
    with new_folder(folder.resolve()) as temporary:  # an earlier export stays if this one fails
        print(f"{model}: converting to ONNX, about 20 seconds", file=sys.stderr, flush=True)
        export_onnx(predictor, temporary, arguments.int8)
        print(f"{model}: comparing with PyTorch", file=sys.stderr, flush=True)
        compare_with_pytorch(predictor, questions, temporary)
        if folder.exists():
            own = {str(folder / name) for name in EXPORTED}
            shutil.copytree(
                folder,
                temporary,
                symlinks=True,
                dirs_exist_ok=True,
                ignore=lambda place, names: [name for name in names if f"{place}/{name}" in own],
            )
    print(f"{folder}: {', '.join(name for name in EXPORTED if (folder / name).is_file())}")
    return 0


def compare_with_pytorch(predictor: Predictor, questions: PackedDataset, folder: Path) -> None:
    """Print accuracy, size and speed of an export, beside PyTorch's accuracy.

    Raises:
        QcError: The logits of model.onnx differ from PyTorch's.
    """

    def accuracy(logits: np.ndarray) -> float:
        return evaluate_accuracy(logits.argmax(axis=1), questions.labels.numpy())["accuracy"]

    expected = predict(predictor.model, questions).numpy() / (predictor.trained.temperature or 1.0)
    print(f"{'PyTorch':<25} accuracy {accuracy(expected):.3f} on {len(questions)} validation questions")
    for name in (MODEL, INT8):
        if not (folder / name).is_file():
            continue
        session = open_onnx(folder / name)
        onnx_logits(session, questions)  # the first run allocates memory
        logits, seconds = onnx_logits(session, questions)
        size = sum(path.stat().st_size for path in folder.glob(f"{name}*")) / 2**20
        print(
            f"{name:<25} accuracy {accuracy(logits):.3f}, {size:.1f} MiB, "
            f"{len(questions) / seconds:,.0f} questions a second"
        )
        difference = float(np.abs(logits - expected).max())
        if name == MODEL and difference > TOLERANCE:
            raise QcError(
                f"{name}: its logits differ from PyTorch's by up to {difference:.1e}; expected at most {TOLERANCE:g}"
            )
