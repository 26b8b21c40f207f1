"""What the models share: the task, the class every model derives from, head, pooling, attention and dropout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from qc.models.encoder import Encoder
    from qc.models.parameters import TrainingConfig, UpperLayers

SHORT = 64  # tokens up to which attention is written out
BITS = 16  # of randomness for an element of a dropout mask: the share of zeros is exact to 1/65536


@dataclass(frozen=True)
class Task:
    """What a new model is built for.

    Attributes:
        classes: Number of coarse classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
        max_length: Tokens kept of a question, special tokens not counted.
        vocab_size: Number of ids of the tokenizer.
        unknown_id: Its id of [UNK].
        pad_id: Its id of [PAD].
        token_counts: (at most vocab_size,) how often each id occurs in the training split.
    """

    classes: int
    coarse_of: Sequence[int]
    max_length: int
    vocab_size: int
    unknown_id: int
    pad_id: int
    token_counts: Tensor


class HierarchicalHead(nn.Linear):
    """Linear layer whose first rows score the coarse classes, and the others the fine classes.

        features (B, H) -> logits (B, classes + fine classes) -> coarse logits (B, classes)

    In training the fine classes are a second task. In prediction their probabilities, summed by coarse class, are
    averaged with those of the coarse classes. Without fine classes the head is a linear layer.

    Source: Caruana, "Multitask Learning", Machine Learning 1997.

    Args:
        features: Size of the input vectors.
        classes: Number of coarse classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
    """

    def __init__(self, features: int, classes: int, coarse_of: Sequence[int] = ()) -> None:
        super().__init__(features, classes + len(coarse_of))
        self.classes = classes
        self.register_buffer("coarse_of", torch.tensor(coarse_of, dtype=torch.long), persistent=False)

    def coarse_logits(self, logits: Tensor) -> Tensor:
        """Average the log-probabilities of both tasks: fp32 (B, classes + fine) -> (B, classes), not normalized."""
        if not len(self.coarse_of):
            return logits
        coarse = logits[:, : self.classes].log_softmax(dim=1)
        fine = logits[:, self.classes :].softmax(dim=1)  # (B, fine classes)
        summed = torch.zeros_like(coarse).index_add_(1, self.coarse_of, fine)
        return (coarse + summed.clamp_min(torch.finfo(coarse.dtype).tiny).log()) / 2


class Classifier(nn.Module):
    """A network that maps token ids and a mask to logits, in two steps: `features`, then `classify`.

    Attributes:
        special_tokens: Whether questions keep the special tokens of the tokenizer.
        has_frozen_part: Whether training leaves `features` as they are, so that they may be computed once.
        pools_features: Whether `features` is one vector a question, (B, 1, H).
        sizes: What `rebuild` needs, as `config.json` keeps it.
        head: The last part, which may have a learning rate of its own.
    """

    special_tokens: ClassVar[bool] = True
    has_frozen_part: bool = False
    pools_features: bool = False
    sizes: dict[str, Any]
    head: nn.Module

    @staticmethod
    def load_encoder(folder: Path, upper_layers: "UpperLayers", setting: str = "") -> "Encoder | None":
        """Load the model's encoder, see `qc.models.encoder.load_encoder`; None for a model without one."""
        return None

    @classmethod
    def create(cls, config: "TrainingConfig", task: Task, encoder: "Encoder | None") -> Self:
        """Build an untrained model.

        Args:
            config: Its section of params.yaml.
            task: Classes, vocabulary and lengths.
            encoder: The pretrained encoder, where the section names one.
        """
        raise NotImplementedError

    @classmethod
    def rebuild(cls, sizes: Mapping[str, Any], trained: Mapping[str, Tensor], encoder: "Encoder | None") -> Self:
        """Build a model of the sizes of a trained one; its trained tensors are loaded afterwards."""
        return cls(encoder, **sizes)

    @classmethod
    def prefix_positions(cls, config: "TrainingConfig") -> int:
        """Number of vectors that the model puts before a question."""
        return 0

    @classmethod
    def check_encoder(cls, config: "TrainingConfig", encoder: "Encoder") -> None:
        """Raise QcError where the model cannot be built on an encoder as its section says."""

    @property
    def output_layer(self) -> HierarchicalHead:
        """The layer that the logits come from."""
        return self.head[-1] if isinstance(self.head, nn.Sequential) else self.head

    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run the part before the trained layers.

        Args:
            input_ids: (B, T) ids of the tokenizer.
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            (B, T, H), or (B, 1, H) where the model pools them.
        """
        raise NotImplementedError

    def classify(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Run the trained part: `features` and the mask (B, T) of the ids -> logits (B, classes + fine classes)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch: ids (B, T), mask (B, T) bool or None -> logits (B, classes + fine classes)."""
        return self.classify(self.features(input_ids, mask), mask)


def masked_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Average over the real positions: (B, T, H) and (B, T) bool -> (B, H); over all positions without a mask.

    The sum is taken in fp32 whatever the precision of `hidden`, so that padding does not change a question's mean.
    Autocast would lower a product with the mask to bf16.
    """
    hidden = hidden.float()
    if mask is None:
        return hidden.mean(dim=1)
    real = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    return (hidden * real).sum(dim=1) / real.sum(dim=1)


def attention_bias(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a mask into a bias of the attention scores: 0 where it is True, the lowest number where it is False.

    Minus infinity would give NaN to a token that may attend to none, such as padding far from a sliding window's end.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Compute softmax(q k^T * scale + bias) v, written out where sequences are short.

    PyTorch's `scaled_dot_product_attention` is made for long sequences. Forward and backward pass of 64 sequences, 12
    heads of 32, on 2 cores of an AMD EPYC with AVX512-BF16 (medians of 12), in milliseconds in bf16 and fp32:

        tokens    written out    PyTorch's default
            20      5 and   5        39 and   9
            64     24 and  31       100 and  29
           128    164 and 174       228 and  85
           256    694 and 754       290 and 220

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1.

    Args:
        q: Queries (B, heads, T, D).
        k: Keys (B, heads, S, D).
        v: Values (B, heads, S, D).
        bias: Added to the scores, broadcast to (B, heads, T, S), see `attention_bias`; None for none.
        dropout: Share of the attention weights that are set to zero, 0 to 1.
        scale: Factor of the scores; None: 1 / sqrt(D).

    Returns:
        (B, heads, T, D)
    """
    if q.device.type != "cpu" or q.shape[-2] > SHORT or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return drop(weights, dropout) @ v


def drop(x: Tensor, p: float) -> Tensor:
    """Set a share `p` of the elements of `x`, on a CPU, to zero and multiply the others by 1 / (1 - p).

    PyTorch draws a random number for each element, in one thread. Here a draw of 64 bits decides on four elements. The
    masks depend on the seed alone, not on the number of threads.

    Source: Srivastava et al., "Dropout", JMLR 2014.
    """
    if p == 0:
        return x
    words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)  # -32768 to 32767
    kept = drawn >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with cheaper masks on a CPU; elsewhere, and in compiled code, it is PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x`, in training."""
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return drop(x, self.p)
