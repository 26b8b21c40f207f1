"""Model cards: what a model is, told from its own facts, in the form that model hubs read.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.

Notable:
- nothing in a card is of the machine or the moment: the same run writes the same card
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from qc.sources import WEIGHTS

KINDS = {
    "scratch": "A transformer encoder trained from nothing (sinusoidal positions, mean of the token vectors, linear "
    "head).",
    "prefix": "Trained vectors before the question, a frozen pretrained encoder, mean of the token vectors, linear "
    "head.",
    "distilbert": "A pretrained encoder whose last layers are fine-tuned, with a small head.",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: The model's: scratch, prefix or distilbert.
        config: The model folder's config.json.
        metrics: The content of metrics/train_NAME.json.
        files: The content of data/raw/files.json.
        splits: Of each split that training saw, its number of questions and the SHA-256 of its file.
        encoder: The content of the encoder's source.json; None for none.
        training: How it was trained, by name.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, tuple[int, str]]
    encoder: Mapping[str, Any] | None
    training: Mapping[str, Any]


def model_card(facts: CardFacts) -> str:
    """A model's README.md."""
    classes, vocabulary = facts.config["labels"]["classes"], facts.config["vocabulary"]
    valid, parameters = facts.metrics["valid"], facts.metrics["parameters"]
    base = facts.encoder["repository"] if facts.encoder else None
    metadata = {"pipeline_tag": "text-classification", **({"base_model": base} if base else {})}
    sections = {
        f"{facts.name}: a classifier of questions": [
            KINDS[facts.name],
            f"It tells which of {len(classes)} classes a question is of: {', '.join(classes)}.",
        ],
        "Use": [
            "From the repository that it was trained in:",
            f'    from qc import load\n    load("models/{facts.name}").predict(["Who wrote Hamlet ?"])[0].label',
            "`config.json` says how to rebuild it; `model.safetensors` holds what was trained, and nothing else. A "
            f"question is {'lower-cased and ' if vocabulary['lowercase'] else ''}cut to {facts.config['max_length']} "
            f"tokens of {vocabulary['tokenizer']}.",
        ],
        "Data": [
            _list([*_describe_files(facts), *_describe_splits(facts)]),
        ],
        "Encoder": [_describe_encoder(facts)],
        "Training": [
            f"{parameters['trainable']:,} of {parameters['total']:,} parameters were trained, for "
            f"{facts.metrics['epochs']} epochs in {facts.metrics['precision']}; the weights are those of epoch "
            f"{facts.metrics['best_epoch']}, the best by validation accuracy.",
            _table(["parameter", "value"], facts.training),
        ],
        "Scores": [
            f"On the {facts.splits['valid'][0]} questions of the validation split, which chose the epoch: accuracy "
            f"{valid['accuracy']:.3f}, mean cross-entropy {valid['loss']:.4f} nats. Scores on questions that chose "
            "nothing are in `metrics/evaluate.json`.",
        ],
        "Limits": [_list(_describe_limits(facts))],
        "Licences of what it was made from": [
            _list([f"{about['name']}: {about['licence'] or 'not stated'}" for about in facts.files.values()]
            + ([f"{facts.config['encoder']}: {facts.encoder['licence'] or 'not stated'}"] if facts.encoder else [])),
        ],
    }  # fmt: skip
    paragraphs = [f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---"]
    for number, (title, content) in enumerate(sections.items()):
        paragraphs += [f"{'##' if number else '#'} {title}", *content]
    return "\n\n".join(paragraphs) + "\n"


def _describe_files(facts: CardFacts) -> list[str]:
    uses = {"train": "questions to learn from", "test": "the official test questions, which training does not see"}
    return [
        f"{uses[key]}: `{about['name']}`, {about['bytes']} bytes, SHA-256 `{about['sha256']}`"
        for key, about in facts.files.items()
    ]


def _describe_splits(facts: CardFacts) -> list[str]:
    return [f"{name}: {count} questions, file's SHA-256 `{digest}`" for name, (count, digest) in facts.splits.items()]


def _describe_encoder(facts: CardFacts) -> str:
    if facts.encoder is None:
        return f"None. Only the tokenizer of {facts.config['vocabulary']['tokenizer']} is used."
    origin = (
        f"`{facts.encoder['repository']}` at `{facts.encoder['revision']}`"
        if facts.encoder["repository"]
        else "a local folder"
    )
    weights = facts.config["files"][f"{facts.config['encoder']}/{WEIGHTS}"]
    return (
        f"`{facts.config['encoder']}`, from {origin}. Its weights have SHA-256 `{weights}`; the model is refused "
        "with any others."
    )


def _describe_limits(facts: CardFacts) -> list[str]:
    limits = [
        "It knows the classes above and no other: any text at all is given one of them.",
        "Its scores hold for questions like those it was trained on, and say nothing of others.",
        "Its probabilities are not calibrated; `metrics/evaluate.json` has the calibration error, a temperature fitted "
        "on validation, and the error after dividing the logits by it, which may be lower or higher.",
    ]
    if facts.config["vocabulary"]["include_fine_label"]:
        limits.insert(0, "**It was trained with the fine label before each question, which gives the answer away.**")
    return limits


def _list(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(header: list[str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])
