"""What one would run instead of this project, written as its users would write it, on the same data and encoder.

Notable:
- `transformers.Trainer` with `DataCollatorWithPadding`: the usual way to fine-tune
- a plain loop over batches padded to one fixed length: the usual notebook
- the encoder is transformers' section, frozen layers and all run in every step

    python -m benchmarks.instead fp32      what train_distilbert does, with Trainer, from its start to weights on disk
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.ours import finish
from qc.config.settings import Settings
from qc.inference.batches import PackedDataset, pack_ids
from qc.models.parameters import TrainingConfig
from qc.models.scratch import ScratchConfig, sinusoidal_positions
from qc.paths import ENCODERS, LABELS, Folders
from qc.questions.labels import Labels
from qc.runtime.device import pick_device
from qc.stage import load_settings
from qc.training.data import TokenizedSplit, TrainingData, load_training_data

Rows = Sequence[tuple[list[int], int]]  # token ids with special tokens, and the class number


class FineTuned(nn.Module):
    """The encoder's last layers and the head of `qc.models.distilbert`, on transformers' encoder."""

    def __init__(self, folder: Path, layers: int, head_hidden_size: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.encoder.requires_grad_(False)
        for layer in self.encoder.encoder.layer[len(self.encoder.encoder.layer) - layers :]:
            layer.requires_grad_(True)
        width = self.encoder.config.hidden_size
        self.head = nn.Sequential(
            nn.Linear(width, head_hidden_size),
            nn.LayerNorm(head_hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(head_hidden_size, classes),
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Tensor
    ) -> SequenceClassifierOutput:
        """(B, T) ids and 0/1 mask -> the loss with labels (B,), and logits (B, classes)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.head(masked_mean(hidden, attention_mask))
        return SequenceClassifierOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class Prefixed(nn.Module):
    """Trainable vectors before the last layers of a frozen encoder, or before its words; and a linear head."""

    def __init__(
        self, folder: Path, prefix_length: int, layers: int | Literal["all"], prefix_std: float, classes: int
    ) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.encoder.requires_grad_(False)
        self.first = None if layers == "all" else len(self.encoder.encoder.layer) - layers  # that sees the prefix
        width = self.encoder.config.hidden_size
        self.prefix = nn.Parameter(prefix_std * torch.randn(prefix_length, width))
        self.head = nn.Linear(width, classes)

    def train(self, mode: bool = True) -> "Prefixed":
        """Switch the head's mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> SequenceClassifierOutput:
        """(B, T) ids and 0/1 mask, labels (B,) -> the loss, and logits (B, classes)."""
        prefix = self.prefix.expand(len(input_ids), -1, -1)
        seen = F.pad(attention_mask, (len(self.prefix), 0), value=1)
        if self.first is None:
            words = torch.cat((prefix, self.encoder.get_input_embeddings()(input_ids)), dim=1)
            hidden = self.encoder(inputs_embeds=words, attention_mask=seen).last_hidden_state
        else:
            hidden, mask = self.encoder.embeddings(input_ids), attention_mask
            for number, layer in enumerate(self.encoder.encoder.layer):
                if number == self.first:
                    hidden, mask = torch.cat((prefix, hidden), dim=1), seen
                hidden = layer(hidden, mask[:, None, None, :].bool())
        logits = self.head(masked_mean(hidden[:, len(self.prefix) :], attention_mask))
        return SequenceClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)


class FromNothing(nn.Module):
    """`torch.nn.TransformerEncoder` at the sizes of `qc.models.scratch`, a row of embedding for every token."""

    def __init__(self, sizes: ScratchConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.register_buffer("positions", sinusoidal_positions(sizes.max_length, sizes.hidden_size))
        layer = nn.TransformerEncoderLayer(
            sizes.hidden_size,
            sizes.heads,
            sizes.ffn_size,
            sizes.dropout,
            batch_first=True,
            norm_first=sizes.norm == "pre",
        )
        self.encoder = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.head = nn.Linear(sizes.hidden_size, sizes.classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> SequenceClassifierOutput:
        """(B, T) ids and 0/1 mask, labels (B,) -> the loss, and logits (B, classes)."""
        x = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        logits = self.head(masked_mean(x, attention_mask))
        return SequenceClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)


def masked_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the real positions, as most notebooks write it: (B, T, H) and (B, T) -> (B, H)."""
    mask = attention_mask[:, :, None].to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def rows_of(questions: PackedDataset) -> Rows:
    """Questions as most programs hold them: a list of ids and a label each."""
    columns = (questions.starts, questions.lengths, questions.labels)
    return [
        (questions.values[start : start + length].tolist(), label)
        for start, length, label in zip(*(column.tolist() for column in columns), strict=True)
    ]


def load_splits(settings: Settings) -> list[PackedDataset]:
    """Read train and valid as train_distilbert does."""
    data = load_training_data("distilbert", settings, Folders())
    return [pack_split(data, split, settings) for split in (data.train, data.valid)]


def pack_split(data: TrainingData, split: TokenizedSplit, settings: Settings) -> PackedDataset:
    """Pack questions as train_distilbert does."""
    return pack_ids(
        data.vocabulary,
        split.input_ids,
        split.labels,
        settings.max_length,
        keep_special=True,
        fine_labels=split.fine_labels,
    )


def fixed_batches(rows: Rows, batch_size: int, length: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Random batches, every question padded with 0 or cut to `length` tokens."""
    for indices in torch.randperm(len(rows), generator=generator).split(batch_size):
        ids = torch.zeros(len(indices), length, dtype=torch.long)
        mask = torch.zeros(len(indices), length, dtype=torch.long)
        for row, index in enumerate(indices.tolist()):
            tokens = rows[index][0][:length]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        labels = torch.tensor([rows[index][1] for index in indices.tolist()])
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def on_device_of(model: nn.Module, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Move batches to where a model is."""
    device = next(model.parameters()).device
    for batch in batches:
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def accuracy(model: nn.Module, rows: Rows, length: int) -> float:
    """Share of questions whose class a model tells, 0 to 1."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for batch in on_device_of(model, fixed_batches(rows, 64, length, torch.Generator().manual_seed(0))):
            right += int((model(**batch).logits.argmax(dim=1) == batch["labels"]).sum())
    return right / len(rows)


def plain_loop(
    model: nn.Module,
    rows: Rows,
    config: TrainingConfig,
    length: int,
    seed: int,
    enough: Callable[[], bool] = lambda: False,
) -> list[float]:
    """The usual notebook's loop, fp32, fixed padding; the seconds of each epoch, `enough` included.

    Args:
        model: Gives a loss for a batch of `fixed_batches`.
        rows: What it learns from.
        config: Epochs, batch size and AdamW's settings are taken from it; a linear schedule with warm-up.
        length: Tokens a question is padded to.
        seed: Decides the order of the questions.
        enough: Asked after every epoch; True ends training.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.learning_rate, config.betas, config.eps, config.weight_decay)
    total = config.epochs * -(-len(rows) // config.batch_size)
    warmup = max(1, round(config.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (total - step) / max(1, total - warmup))
    )
    generator = torch.Generator().manual_seed(seed)
    seconds = []
    for _ in range(config.epochs):
        start = time.perf_counter()
        model.train()
        for batch in on_device_of(model, fixed_batches(rows, config.batch_size, length, generator)):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
        finish(trained[0].device)
        ended = enough()
        seconds.append(time.perf_counter() - start)
        if ended:
            break
    return seconds


class _Stopwatch(TrainerCallback):
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        finish(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def trainer(
    model: nn.Module,
    rows: Rows,
    config: TrainingConfig,
    tokenizer: Path,
    seed: int,
    bf16: bool,
    device: torch.device,
    valid: Rows = (),
) -> list[float]:
    """Fine-tune with `transformers.Trainer` and dynamic padding; with `valid`, evaluate on it after each epoch.

    Returns:
        The seconds of each epoch, less evaluation.
    """
    stopwatch = _Stopwatch(device)
    train_set, valid_set = ([{"input_ids": ids, "labels": label} for ids, label in split] for split in (rows, valid))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup,
            lr_scheduler_type="linear",
            max_grad_norm=config.clip_norm or 0.0,
            bf16=bf16,
            use_cpu=device.type == "cpu",
            seed=seed,
            eval_strategy="epoch" if valid else "no",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        usual = Trainer(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=valid_set or None,
            data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(tokenizer)),
            callbacks=[stopwatch],
        )
        usual.remove_callback(PrinterCallback)
        usual.train()
    return stopwatch.seconds


def main(precision: str) -> None:
    """Fine-tune as params.yaml says, evaluate after each epoch, save the weights; prints the validation accuracy."""
    settings = load_settings()
    section = settings.train_distilbert
    folder = ENCODERS / section.encoder
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    train, valid = (rows_of(split) for split in load_splits(settings))
    classes = len(Labels.read(LABELS).classes)
    model = FineTuned(folder, section.trainable_layers, section.head_hidden_size, section.dropout, classes)
    trainer(model, train, section, folder, settings.seed, precision == "bf16", pick_device(settings.device), valid)
    with tempfile.TemporaryDirectory() as place:
        save_file(model.head.state_dict(), Path(place) / "model.safetensors")
    print(json.dumps({"valid_accuracy": accuracy(model, valid, max(len(ids) for ids, _ in valid))}))


if __name__ == "__main__":
    main(sys.argv[1])
