"""Logits of a whole split, and the scores they reach."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.inference.batches import PackedDataset, bucket_by_length
from qc.models.common import Classifier
from qc.runtime.device import Precision, autocast
from qc.runtime.process_group import all_reduce_sum, shard


def evaluation_batch(device: torch.device) -> int:
    """Number of questions that are predicted at a time: few stay in a CPU's caches, many keep a GPU busy."""
    return 64 if device.type == "cpu" else 512


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy in nats; accuracy and macro F1 from 0 to 1."""

    loss: float
    accuracy: float
    macro_f1: float


def predict(
    model: Classifier, questions: PackedDataset, precision: Precision = "fp32", forward: nn.Module | None = None
) -> Tensor:
    """Compute the logits of a split without dropout: (N, classes) fp32 on the CPU, in the split's order.

    Args:
        model: The model.
        questions: The split: token ids, or what `forward` takes.
        precision: Of the matrix products.
        forward: What maps a batch to the model's logits; None: the model itself.
    """
    model.eval()
    forward, head = forward or model, model.output_layer
    logits = torch.zeros(len(questions), head.classes, device=questions.device)
    plan = shard(bucket_by_length(questions.lengths, evaluation_batch(questions.device)))
    if plan:
        with torch.inference_mode():
            rows = []
            for batch in questions.batches(plan):
                with autocast(questions.device, precision):
                    scored = forward(batch.inputs, batch.mask)
                rows.append(head.coarse_logits(scored.float()))
            logits[torch.cat(plan).to(questions.device)] = torch.cat(rows)
    return all_reduce_sum(logits).cpu()  # rows of other processes are 0 here


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Compute loss, accuracy and macro F1 of logits (N, classes) for class numbers (N,)."""
    predicted = logits.argmax(dim=1)
    return Scores(
        loss=F.cross_entropy(logits.double(), labels).item(),
        accuracy=(predicted == labels).double().mean().item(),
        macro_f1=macro_f1(predicted, labels, logits.shape[1]),
    )


def macro_f1(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Compute the mean F1 of the classes that have questions, from class numbers (N,)."""
    predictions, true, correct = (
        torch.bincount(numbers, minlength=classes) for numbers in (predicted, labels, labels[predicted == labels])
    )
    return (2 * correct / (predictions + true))[true > 0].double().mean().item()
