"""What one would run instead of this project, written as its users would write it, on the same data and encoder.

Notable:
- `transformers.Trainer` with `DataCollatorWithPadding`: the usual way to fine-tune
- prefix tuning is that of `peft`, trained by it: keys and values of all layers, on the encoder's own classifier
- SetFit trains all layers on pairs of questions, then a logistic regression; always in fp32 here
- a plain loop over batches padded to one fixed length: the usual notebook
- the encoder is that of transformers, and all its layers run in every step, the frozen ones too

    python -m benchmarks.instead fp32           what train_distilbert does, from its start to weights on disk
    python -m benchmarks.instead bf16 distilbert    accuracy on the folds of `qc cross-validate` (about 4 minutes)
    python -m benchmarks.instead bf16 prefix learning_rate=0.01     the same of peft's, with another value
    python -m benchmarks.instead fp32 setfit 4      the same of SetFit, 4 positive and 4 negative pairs a question
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import peft
import torch
import transformers
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.ours import Timed, load
from qc.commands.cross_validate import FOLDS
from qc.commands.cross_validation import change_settings, make_folds
from qc.commands.tables import standard_error
from qc.config.settings import Settings
from qc.models.parameters import TrainingConfig
from qc.models.scratch import sinusoidal_positions
from qc.paths import ENCODERS, SPLIT
from qc.questions.tables import TRAIN, VALID, QuestionTable
from qc.runtime.device import pick_device
from qc.stage import load_settings
from qc.training.data import TrainingData

Rows = Sequence[tuple[list[int], int]]  # token ids with special tokens, and the class number


class Instead(nn.Module):
    """An encoder, the mean over the words' positions and a head, with the loss as Trainer wants it."""

    head: nn.Module

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) ids and 0/1 mask -> the words' vectors (B, T, H)."""
        raise NotImplementedError

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Tensor
    ) -> SequenceClassifierOutput:
        """(B, T) ids and 0/1 mask -> the loss with labels (B,), and logits (B, classes)."""
        hidden = self.hidden(input_ids, attention_mask)
        mask = attention_mask[:, :, None].to(hidden.dtype)
        logits = self.head((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return SequenceClassifierOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class FineTuned(Instead):
    """The encoder's last layers and the head of `qc.models.distilbert`, on transformers' encoder."""

    def __init__(self, folder: Path, section: TrainingConfig, classes: int) -> None:
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.encoder.requires_grad_(False)
        layers = self.encoder.encoder.layer
        layers[len(layers) - section.trainable_layers :].requires_grad_(True)
        width, own = self.encoder.config.hidden_size, section.head_hidden_size
        self.head = nn.Sequential(
            nn.Linear(width, own), nn.LayerNorm(own), nn.ReLU(), nn.Dropout(section.dropout), nn.Linear(own, classes)
        )

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """All layers."""
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class FromNothing(Instead):
    """`torch.nn.TransformerEncoder` at the sizes of `train_scratch`, a row of embedding for every token."""

    def __init__(self, section: TrainingConfig, vocab_size: int, max_length: int, classes: int) -> None:
        super().__init__()
        width = section.hidden_size
        self.embedding = nn.Embedding(vocab_size, width)
        self.register_buffer("positions", sinusoidal_positions(max_length, width))
        sizes, pre = (width, section.heads, section.ffn_size, section.dropout), section.norm == "pre"
        layer = nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=pre)
        self.encoder = nn.TransformerEncoder(layer, section.layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """All layers."""
        x = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]
        return self.encoder(x, src_key_padding_mask=attention_mask == 0)


def build(name: str, settings: Settings, data: TrainingData) -> nn.Module:
    """Build what one would take in the place of the model NAME, untrained."""
    section, classes = getattr(settings, f"train_{name}"), len(data.labels.classes)
    torch.manual_seed(settings.seed)
    if name == "scratch":
        return FromNothing(section, data.vocabulary.size, settings.max_length + 2, classes)
    folder = ENCODERS / section.encoder
    if name == "distilbert":
        return FineTuned(folder, section, classes)
    usual = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    prefix = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=section.prefix_length)
    return peft.get_peft_model(usual, prefix)


def rows_of(split: QuestionTable) -> Rows:
    """Questions as most programs hold them: a list of ids and a label each."""
    return list(zip(split.input_ids.to_pylist(), split.labels.tolist(), strict=True))


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


def accuracy(model: nn.Module, rows: Rows, length: int) -> float:
    """Share of questions whose class a model predicts, 0 to 1."""
    model.eval()
    correct, device = 0, next(model.parameters()).device
    with torch.inference_mode():
        for batch in fixed_batches(rows, 64, length, torch.Generator().manual_seed(0)):
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            correct += int((logits.argmax(dim=1).cpu() == batch["labels"]).sum())
    return correct / len(rows)


def plain_loop(
    model: nn.Module, train: Rows, valid: Rows, config: TrainingConfig, settings: Settings, length: int
) -> Timed:
    """Train by the usual notebook's loop: fp32, every question padded to `length`.

    Epochs, batch size and AdamW's settings are those of `config`; the schedule is linear with warm-up.
    """
    device = pick_device(settings.device)
    trained = [parameter for parameter in model.to(device).parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.learning_rate, config.betas, config.eps, config.weight_decay)
    total = config.epochs * -(-len(train) // config.batch_size)
    warmup = max(1, round(config.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (total - step) / max(1, total - warmup))
    )
    generator = torch.Generator().manual_seed(settings.seed)
    seconds = []
    for _ in range(config.epochs):
        start = time.perf_counter()
        model.train()
        for batch in fixed_batches(train, config.batch_size, length, generator):
            optimizer.zero_grad()
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
        loss.item()  # a GPU has then done its work
        seconds.append(time.perf_counter() - start)
    return seconds, accuracy(model, valid, length)


class _Stopwatch(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def trainer(
    model: nn.Module, rows: Rows, config: TrainingConfig, settings: Settings, bf16: bool, valid: Rows = ()
) -> list[float]:
    """Fine-tune with `transformers.Trainer` and dynamic padding; with `valid`, evaluate on it after each epoch.

    Returns the seconds of each epoch, less evaluation.
    """
    stopwatch = _Stopwatch()
    train_set, valid_set = ([{"input_ids": ids, "labels": label} for ids, label in split] for split in (rows, valid))
    tokenizer = transformers.AutoTokenizer.from_pretrained(ENCODERS / config.encoder)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup,
            lr_scheduler_type="linear",
            max_grad_norm=config.clip_norm or 0.0,
            bf16=bf16,
            use_cpu=pick_device(settings.device).type == "cpu",
            seed=settings.seed,
            eval_strategy="epoch" if valid else "no",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        usual = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=valid_set or None,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            callbacks=[stopwatch],
        )
        usual.remove_callback(transformers.PrinterCallback)
        usual.train()
    return stopwatch.seconds


def trainer_accuracy(
    name: str, precision: str, settings: Settings, data: TrainingData, train: QuestionTable, held_out: QuestionTable
) -> float:
    """Train what stands in the place of the model NAME; its accuracy on other questions."""
    model, rows = build(name, settings, data), rows_of(held_out)
    trainer(model, rows_of(train), getattr(settings, f"train_{name}"), settings, bf16=precision == "bf16")
    return accuracy(model, rows, max(len(ids) for ids, _ in rows))


def setfit_accuracy(settings: Settings, iterations: int, train: QuestionTable, held_out: QuestionTable) -> float:
    """Fine-tune by SetFit (Tunstall et al., 2022); its accuracy on other questions."""
    import setfit  # pip install setfit==1.2.0

    encoder, device = ENCODERS / settings.train_distilbert.encoder, pick_device(settings.device).type
    model = setfit.SetFitModel.from_pretrained(str(encoder), device=device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = setfit.TrainingArguments(
            folder,
            num_iterations=iterations,
            num_epochs=1,
            seed=settings.seed,
            save_strategy="no",
            report_to="none",
        )
        texts = Dataset.from_dict({"text": train.texts, "label": train.labels})
        setfit.Trainer(model, arguments, train_dataset=texts).train()
    return float((model.predict(held_out.texts).numpy() == held_out.labels).mean())


def cross_validate(precision: str, settings: Settings, name: str, *changes: str) -> None:
    """Train on each fold's rest; print docs/performance.md's accuracy on the questions that were held out."""
    if name == "setfit":
        [iterations] = map(int, changes)
        model, answer = "distilbert", partial(setfit_accuracy, settings, iterations)
    else:
        settings = change_settings(settings, name, changes)
        model, answer = name, partial(trainer_accuracy, name, precision, settings, load(name, settings))
    folder = SPLIT / settings.training()[model].tokenizer_name
    train, valid = (QuestionTable.read(folder / file) for file in (TRAIN, VALID))
    questions, correct, begin = train.join(valid), 0.0, time.perf_counter()
    for fold in tqdm(make_folds(questions.labels, questions.groups, FOLDS, settings.seed), unit="fold", disable=None):
        seen, held_out = (questions.take(rows) for rows in fold)
        correct += answer(seen, held_out) * len(held_out)
    seconds, count, share = (time.perf_counter() - begin) / FOLDS, len(questions), correct / len(questions)
    print(
        f"{count} questions, accuracy {share:.4f}, standard error {standard_error(share, count):.4f}, "
        f"{seconds:.0f} seconds a fold"
    )


def main(precision: str, settings: Settings) -> None:
    """Fine-tune as params.yaml says, evaluate after each epoch, save the weights; prints the validation accuracy."""
    data = load("distilbert", settings)
    train, valid = rows_of(data.train), rows_of(data.valid)
    model = build("distilbert", settings, data)
    trainer(model, train, settings.train_distilbert, settings, precision == "bf16", valid)
    with tempfile.TemporaryDirectory() as place:
        save_file(model.head.state_dict(), Path(place) / "model.safetensors")
    print(json.dumps({"valid_accuracy": accuracy(model, valid, max(len(ids) for ids, _ in valid))}))


if __name__ == "__main__":
    settings = load_settings()
    torch.set_num_threads(settings.threads)
    (cross_validate if sys.argv[2:] else main)(sys.argv[1], settings, *sys.argv[2:])
