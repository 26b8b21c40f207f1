"""Logits of a whole split, and the scores they reach."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.data.packed import PackedDataset, bucket_by_length
from qc.runtime.device import Precision, autocast
from qc.runtime.process_group import all_reduce_sum, shard

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy in nats, and accuracy from 0 to 1."""

    loss: float
    accuracy: float


def predict(model: nn.Module, questions: PackedDataset, precision: Precision = "fp32") -> Tensor:
    """Compute the logits of a split without dropout: (N, classes) fp32 on the CPU, in the split's order."""
    model.eval()
    logits = torch.zeros(len(questions), model.output_layer.classes, device=questions.device)
    for indices in shard(bucket_by_length(questions.lengths, EVALUATION_BATCH)):
        batch = questions.batch(indices)
        with torch.inference_mode(), autocast(questions.device, precision):
            found = model.output_layer.coarse_logits(model(batch.inputs, batch.mask).float())
        logits[indices.to(questions.device, non_blocking=True)] = found
    return all_reduce_sum(logits).cpu()  # rows of other processes are 0 here


def score(model: nn.Module, questions: PackedDataset, precision: Precision = "fp32") -> Scores:
    """Compute loss and accuracy of a model on a split."""
    logits, labels = predict(model, questions, precision), questions.labels.cpu()
    return Scores(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=(logits.argmax(dim=1) == labels).float().mean().item(),
    )
