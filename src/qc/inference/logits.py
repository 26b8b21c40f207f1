"""Logits of a whole split, and the scores they reach."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.inference.batches import PackedDataset, bucket_by_length
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


def predict(model: nn.Module, questions: PackedDataset, precision: Precision = "fp32") -> Tensor:
    """Compute the logits of a split without dropout: (N, classes) fp32 on the CPU, in the split's order."""
    model.eval()
    logits = torch.zeros(len(questions), model.output_layer.classes, device=questions.device)
    plan = shard(bucket_by_length(questions.lengths, evaluation_batch(questions.device)))
    for batch in questions.batches(plan) if plan else ():
        with torch.inference_mode(), autocast(questions.device, precision):
            found = model.output_layer.coarse_logits((model.classify if batch.inputs.is_floating_point() else model)(batch.inputs, batch.mask).float())
        logits[batch.indices.to(questions.device, non_blocking=True)] = found
    return all_reduce_sum(logits).cpu()  # rows of other processes are 0 here


def score(model: nn.Module, questions: PackedDataset, precision: Precision = "fp32") -> Scores:
    """Compute loss, accuracy and macro F1 of a model on a split."""
    logits, labels = predict(model, questions, precision), questions.labels.cpu()
    predicted = logits.argmax(dim=1)
    return Scores(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=(predicted == labels).float().mean().item(),
        macro_f1=macro_f1(predicted, labels, logits.shape[1]),
    )


def macro_f1(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Compute the mean F1 of the classes that have questions, from class numbers (N,)."""
    found, true, correct = (
        torch.bincount(numbers, minlength=classes) for numbers in (predicted, labels, labels[predicted == labels])
    )
    return (2 * correct / (found + true))[true > 0].mean().item()
