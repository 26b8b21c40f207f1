"""The hub: addresses of its files, what a repository holds, and copies in its cache.

Notable:
- `huggingface_hub` names the hub (HF_ENDPOINT), its token (HF_TOKEN), its cache (HF_HOME) and whether it may be asked
  (HF_HUB_OFFLINE); bytes come by `qc.fetch.http`, since its own downloader waits 23 seconds for a host that is not
  there, bounds no size, and keeps no part of a broken download either
- the hub states a hash of every file, SHA-256 for large files and git's for small ones; the bytes must match it
"""

import io
import json
from pathlib import Path

import yaml
from huggingface_hub import ModelInfo, constants, hf_hub_url, is_offline_mode, metadata_load, try_to_load_from_cache

from qc.errors import QcError
from qc.fetch.fetcher import Digest
from qc.fetch.http import Downloader, Unavailable
from qc.files import CONFIG

LARGEST_LISTING = 64 << 20  # bytes of what the hub says about a repository


def hub_places(repository: str, revision: str, file: str) -> list[Path | str]:
    """Where a file of the hub is: a copy in the hub's cache, if there is one, and its address."""
    url = hf_hub_url(repository, file, revision=revision)
    cached = try_to_load_from_cache(repository, file, revision=revision)
    return [Path(cached), url] if isinstance(cached, str) else [url]


def list_files(repository: str, revision: str, downloader: Downloader) -> dict[str, Digest]:
    """List size and hash of every file of a repository; with HF_HUB_OFFLINE, of those in its cache.

    Raises:
        QcError: The hub cannot be reached or refuses, or there is no such commit.
    """
    name = f"hub:{repository}@{revision}"
    remedy = "copy data/encoders/NAME from a machine that has it into the folder of QC_MIRROR"
    if is_offline_mode():
        cached = try_to_load_from_cache(repository, CONFIG, revision=revision)
        if not isinstance(cached, str):
            raise QcError(f"{name}: HF_HUB_OFFLINE is set, and the hub's cache has no copy; unset it, or {remedy}")
        return {path.name: Digest(None, path.resolve().name) for path in Path(cached).parent.iterdir()}  # blobs: hashes
    url = f"{constants.ENDPOINT}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        downloader.download(url, answer := io.BytesIO(), LARGEST_LISTING)
        model = ModelInfo(**json.loads(answer.getvalue()))
        if model.sha != revision:
            raise ValueError(f"about commit {model.sha}")
        hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in model.siblings or ()}
        if None in hashes.values():
            raise ValueError("it states no hashes, so that no bytes could be verified")
        return {file.rfilename: Digest(file.size, hashes[file.rfilename]) for file in model.siblings or ()}
    except Unavailable as error:
        raise QcError(f"{name}: {error} ({url}). HF_ENDPOINT names another hub; or {remedy}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise QcError(f"{name}: not the answer of a hub: {error} ({url}); check HF_ENDPOINT") from None


def read_licence(card: Path) -> str | None:
    """Read the licence from the metadata of a model card; None where there is none."""
    try:
        metadata = metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError, RecursionError):  # an unreadable card states no licence
        return None
    licence = metadata.get("license_name") or metadata.get("license")
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence) if licence else None
