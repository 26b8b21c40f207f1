"""Model cards, in the format of model hubs.

A card holds nothing about the machine or the time: the same run writes the same card. The text is in model_card.md.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from qc.config.settings import Settings
from qc.evaluation.tables import markdown
from qc.files import RECORD, WEIGHTS, file_sha256, new_folder, read_json
from qc.inference.model_folder import read_config
from qc.models.registry import MODELS
from qc.questions.tables import QuestionTable

TEMPLATE = Path(__file__).with_name("model_card.md")
USES = {
    "train": "training questions",
    "test": "official test questions, which training does not see",
    "corrections": "corrected labels of training questions",
}


def write_cards(
    folder: Path,
    models: Path,
    reports: Path,
    encoders: Path,
    files: Path,
    splits: Sequence[Path],
    scores: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Write NAME.md for every model.

    Args:
        folder: Where the cards go.
        models: Folder of the model folders.
        reports: Folder with train_NAME.json.
        encoders: Folder of the encoders.
        files: data/raw/files.json.
        splits: Files of the train and validation splits.
        scores: Content of reports/test.json.
        settings: All of params.yaml.
    """
    facts = {
        "files": [{"use": USES[key], **about} for key, about in read_json(files).items()],
        "splits": [
            {"name": path.stem, "questions": len(QuestionTable.read(path, "label")), "sha256": file_sha256(path)}
            for path in splits
        ],
        "n_test": scores["n_test"],
    }
    with new_folder(folder) as temporary:
        for name in MODELS:
            config = read_config(models / name)
            encoder = read_json(encoders / config["encoder"] / RECORD) if "encoder" in config else None
            training = {
                "seed": settings.seed,
                "threads": settings.threads,
                "class_weights": settings.class_weights,
                **settings.training()[name].model_dump(),
            }
            details = {
                "scores": scores[name],
                "select_by": training["select_by"],
                "parameters": markdown(["parameter", "value"], list(training.items())),
            }
            text = model_card(name, config, read_json(reports / f"train_{name}.json"), encoder, facts | details)
            (temporary / f"{name}.md").write_text(text, encoding="utf-8")


def model_card(
    name: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    encoder: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> str:
    """Render a model card.

    Args:
        name: The model's name in the registry.
        config: Its config.json.
        metrics: Content of reports/train_NAME.json.
        encoder: The encoder's source.json; None for none.
        facts: files, splits, n_test, scores and parameters, as the template names them.
    """
    base = encoder["repository"] if encoder else None
    card = ModelCard.from_template(
        ModelCardData(pipeline_tag="text-classification", base_model=base),
        template_path=str(TEMPLATE),
        name=name,
        summary=MODELS[name].summary,
        config=config,
        classes=config["labels"]["classes"],
        vocabulary=config["vocabulary"],
        metrics=metrics,
        encoder=encoder,
        weights=encoder and config["files"][f"{config['encoder']}/{WEIGHTS}"],
        **facts,
    )
    return f"{str(card).rstrip()}\n"
