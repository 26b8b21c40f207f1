"""Loading a pretrained encoder from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError

from qc.errors import QcError, explain, printable
from qc.files import CONFIG, WEIGHTS, read_json
from qc.models.attention import use_attention
from qc.models.classifier import Classifier
from qc.models.encoder import Encoder, UpperLayers


class EncoderClassifier(Classifier):
    """A `Classifier` on a pretrained encoder.

    Attributes:
        layers_setting: What of params.yaml says how many layers run in every step.
    """

    layers_setting: ClassVar[str]

    @classmethod
    def load_encoder(cls, folder: Path, upper_layers: UpperLayers) -> Encoder:
        """Load the encoder in `folder`, see `load_encoder`."""
        return load_encoder(folder, upper_layers, f"params.yaml: {cls.layers_setting}")


def load_encoder(folder: Path, upper_layers: UpperLayers = 0, setting: str = "upper_layers") -> Encoder:
    """Build the pretrained encoder in `folder`, in fp32 and evaluation mode.

    Args:
        folder: Holds config.json and model.safetensors.
        upper_layers: How many of its last layers `upper` runs, or `all`, see `Encoder`.
        setting: What asks for them, for messages.

    Raises:
        QcError: Its files are missing or broken, or it is no encoder that `transformers` has the code of.
    """
    published = read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise QcError(f"{folder / WEIGHTS}: no such file; `dvc checkout` or the fetch stage brings it back")
    # Imported here: it takes two seconds, and the model from scratch needs no encoder.
    from transformers import AutoModel
    from transformers.utils import logging

    check_family(published, folder / CONFIG)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # keeps the random state of the caller
            model, found = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        raise QcError(f"{folder / WEIGHTS}: cannot be read: {error}; the fetch stage brings it back") from None
    except Exception as error:  # every family raises its own errors
        if explain(error):  # such as no memory
            raise
        words = printable(" ".join(str(error).split()))
        raise QcError(f"{folder / CONFIG}: transformers cannot build this encoder: {words}") from None
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise QcError(
            f"{folder / WEIGHTS}: no weights for {', '.join(missing[:3])} ({len(missing)} missing in all); take an "
            "encoder whose config.json and weights belong together"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a copy in memory, not a view of the file
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # not used here
    use_attention(model)
    return Encoder(model.eval(), upper_layers, setting)


def check_family(published: Mapping[str, Any], path: Path) -> None:
    """Refuse a model that is not an encoder of `transformers`.

    Args:
        published: The content of config.json.
        path: Where it is, for messages.

    Raises:
        QcError: It is a decoder, an encoder-decoder, or its family needs code from the repository.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    family = published.get("model_type")
    if family not in CONFIG_MAPPING:
        fault = "needs code from its repository, which is never run"
        if "auto_map" not in published:
            fault = "is unknown to this version of transformers"
    elif published.get("is_encoder_decoder", CONFIG_MAPPING[family].is_encoder_decoder):
        fault = "is an encoder-decoder"
    elif published.get("is_decoder") or family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        fault = "is a decoder, or does not read text"
    else:
        return
    raise QcError(
        f"{path}: model_type {family!r} {fault}; take an encoder such as BERT, RoBERTa, MPNet, DeBERTa or ModernBERT"
    )
