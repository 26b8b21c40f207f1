"""A trained model as one ONNX file, for programs without PyTorch.

    input_ids (B, T) int64, attention_mask (B, T) int64 -> logits (B, classes) fp32

Notable:
- encoder and what was trained are one graph; batch and length are free, up to the positions that the model has
- beside it stand the tokenizer, and config.json with what else is to be known: classes, special ids, the padding id,
  the longest question
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qc.artifacts import write_json
from qc.batching import Questions
from qc.prediction import Predictor
from qc.sources import CONFIG, TOKENIZER
from qc.training import EVALUATION_BATCH

MODEL, INT8 = "model.onnx", "model.int8.onnx"
FILES = (MODEL, INT8, CONFIG, TOKENIZER)  # what an export writes; of a folder, nothing else is touched


class _Graph(nn.Module):
    """What the file holds: a model up to its logits of the coarse classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.output_layer.coarse_logits(self.model(input_ids, attention_mask.bool()))


def export_onnx(predictor: Predictor, folder: Path, int8: bool) -> None:
    """Write model.onnx, tokenizer.json and config.json to an empty folder.

    Args:
        predictor: The model; it is moved to the CPU.
        folder: Where to.
        int8: Write model.int8.onnx too: the same with matrices quantized to 8 bits, activations as they come.
    """
    graph = _Graph(predictor.model.cpu()).eval()
    classifier = predictor.classifier
    special = [*classifier.vocabulary.before, *classifier.vocabulary.after] if classifier.special_tokens else []
    longest = classifier.max_length + len(special)
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
        if int8:
            quantize_dynamic(folder / MODEL, folder / INT8, weight_type=QuantType.QInt8)
        predictor.tokenizer.save(str(folder / TOKENIZER))
        write_json(
            folder / CONFIG,
            {
                "classes": predictor.classes,
                "lowercase": classifier.lowercase,
                "max_length": classifier.max_length,
                "pad_id": classifier.vocabulary.pad_id,
                "add_special_tokens": classifier.special_tokens,
                "special_tokens": len(special),
            },
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what the exporters say of packages and shapes that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    """An exported file, ready to run on the CPU."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def onnx_logits(session: onnxruntime.InferenceSession, questions: Questions) -> tuple[np.ndarray, float]:
    """Logits (N, classes) of questions on the CPU, in their order; the seconds it took."""
    logits, order, took = [], [], 0.0
    for batch in questions.batches(EVALUATION_BATCH):
        mask = torch.ones_like(batch.inputs) if batch.mask is None else batch.mask.long()
        inputs = {"input_ids": batch.inputs.numpy(), "attention_mask": mask.numpy()}
        begin = time.perf_counter()
        logits += session.run(["logits"], inputs)
        took += time.perf_counter() - begin
        order.append(batch.indices.numpy())
    return np.concatenate(logits)[np.concatenate(order).argsort()], took
