"""Model cards, in the format of model hubs; the template is model_card.md.

A card holds nothing about the machine or the time: the same run writes the same card.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qc.evaluation.tables import markdown, temperature_text
from qc.files import RECORD, WEIGHTS, WEIGHTS_INDEX, file_sha256, new_folder, read_json, round_floats
from qc.inference.model_folder import read_config
from qc.models.registry import MODELS

if TYPE_CHECKING:
    from qc.config.settings import Settings

TASK = "text-classification"
TEMPLATE = Path(__file__).with_name("model_card.md")
USES = {
    "train": "training questions",
    "test": "official test questions, which training does not see",
    "corrections": "corrected labels of training questions",
}
METRICS = {  # the hub's type of a score, and its name there
    "accuracy": ("accuracy", "accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "loss": ("log_loss", "log loss"),
    "ece": ("ece", "expected calibration error"),
}


def write_cards(
    folder: Path,
    models: Path,
    reports: Path,
    encoders: Path,
    files: Path,
    splits: Mapping[str, Mapping[Path, int]],
    scores: Mapping[str, Any],
    settings: "Settings",
) -> None:
    """Write NAME.md for every model.

    Args:
        folder: Where the cards go.
        models: Folder of the model folders.
        reports: Folder with train_NAME.json.
        encoders: Folder of the encoders.
        files: data/raw/files.json.
        splits: The files of each model's train and validation split, with their numbers of questions.
        scores: Content of reports/test.json.
        settings: All of params.yaml.
    """
    sources = read_json(files)
    tested = sources.get("test", sources["train"])["name"]
    with new_folder(folder) as temporary:
        for name, model in MODELS.items():
            config = read_config(models / name)
            encoder = read_json(encoders / config["encoder"] / RECORD) if "encoder" in config else None
            training = settings.training()[name].model_dump()
            parameters = {key: getattr(settings, key) for key in ("seed", "threads", "class_weights")} | training
            results = [
                EvalResult(
                    TASK,
                    dataset_type=tested,
                    dataset_name=tested,
                    dataset_split="test",
                    metric_type=kind,
                    metric_name=metric,
                    metric_value=round_floats(scores[name][key]),
                )
                for key, (kind, metric) in METRICS.items()
            ]
            card = ModelCard.from_template(
                ModelCardData(
                    model_name=name,
                    pipeline_tag=TASK,
                    base_model=encoder and encoder["repository"],
                    eval_results=results,
                ),
                template_path=str(TEMPLATE),
                name=name,
                summary=model.summary,
                config=config,
                metrics=read_json(reports / f"train_{name}.json"),
                encoder=encoder,
                weights=encoder and _weights_sha256(config),
                scores=scores[name],
                temperature=temperature_text(scores[name]["calibrated"]["temperature"]),
                select_by=training["select_by"],
                parameters=markdown(["parameter", "value"], list(parameters.items())),
                files=[{"use": USES[key], **source} for key, source in sources.items()],
                splits=[(path.stem, count, file_sha256(path)) for path, count in splits[name].items()],
                n_test=scores["n_test"],
            )
            (temporary / f"{name}.md").write_text(f"{str(card).rstrip()}\n", encoding="utf-8")


def _weights_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of the encoder's weights, or of their index."""
    digests = (config["files"].get(f"{config['encoder']}/{name}") for name in (WEIGHTS, WEIGHTS_INDEX))
    return next(filter(None, digests))
