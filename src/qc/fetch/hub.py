"""The hub: addresses and access token of its files, what a repository holds, and copies in its cache.

Notable:
- `huggingface_hub` names the hub (HF_ENDPOINT), its token (HF_TOKEN), its cache (HF_HOME) and whether it may be asked
  (HF_HUB_OFFLINE); bytes come by `qc.fetch.http`, since its own downloader waits 23 seconds for a host that is not
  there, bounds no size, and keeps no part of a broken download either
- the hub states a hash of every file, SHA-256 for large files and git's for small ones; the bytes must match it
- weights are taken only as safetensors: reading a pickle runs code of its author
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from huggingface_hub import ModelInfo, constants, hf_hub_url, is_offline_mode, metadata_load, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers

from qc.config.sources import HubReference
from qc.errors import QcError
from qc.fetch.fetcher import Digest
from qc.fetch.http import Downloader, Unavailable
from qc.files import CONFIG

LARGEST_LISTING = 64 << 20  # bytes of what the hub says about a repository
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def hub_headers(url: str) -> Mapping[str, str]:
    """Headers for an address: of the hub's, those of its client, with the access token only over https or to loopback.

    Raises:
        Unavailable: HF_HUB_OFFLINE forbids asking the hub.
    """
    if not url.startswith(f"{constants.ENDPOINT}/"):
        return {}
    if is_offline_mode():
        raise Unavailable("HF_HUB_OFFLINE is set")
    address = urlsplit(url)
    private = address.scheme == "https" or address.hostname in LOOPBACK
    return build_hf_headers(token=None if private else False)


def hub_places(reference: HubReference, file: str) -> list[Path | str]:
    """Where a file of the hub is: a copy in the hub's cache, if there is one, and its address."""
    url = hf_hub_url(reference.repository, file, revision=reference.revision)
    cached = try_to_load_from_cache(reference.repository, file, revision=reference.revision)
    return [Path(cached), url] if isinstance(cached, str) else [url]


def list_files(reference: HubReference, downloader: Downloader) -> dict[str, Digest]:
    """List size and hash of every file of a repository; with HF_HUB_OFFLINE, of those in its cache.

    Raises:
        QcError: The hub cannot be reached or refuses, or there is no such commit.
    """
    if is_offline_mode():
        cached = try_to_load_from_cache(reference.repository, CONFIG, revision=reference.revision)
        if not isinstance(cached, str):
            raise QcError(
                f"{reference}: HF_HUB_OFFLINE is set, and the hub's cache has no copy; unset it, or copy "
                "data/encoders/NAME from a machine that has it into the folder of QC_MIRROR"
            )
        return {path.name: Digest(None, path.resolve().name) for path in Path(cached).parent.iterdir()}  # blobs: hashes
    url = f"{constants.ENDPOINT}/api/models/{reference.repository}/revision/{reference.revision}?blobs=true"
    try:
        downloader.download(url, answer := io.BytesIO(), LARGEST_LISTING, exact=False)
    except Unavailable as error:
        raise QcError(
            f"{reference}: {error} ({url}). HF_ENDPOINT names another hub; or copy data/encoders/NAME from a machine "
            "that has it into the folder of QC_MIRROR"
        ) from None
    try:
        found = ModelInfo(**json.loads(answer.getvalue()))
        if found.sha != reference.revision:
            raise ValueError(f"about commit {found.sha}")
        return {
            file.rfilename: Digest(file.size, file.lfs.sha256 if file.lfs else file.blob_id or "")
            for file in found.siblings or ()
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise QcError(f"{reference}: not the answer of a hub: {error} ({url}); check HF_ENDPOINT") from None


def read_licence(card: Path) -> str | None:
    """Read the licence from the metadata of a model card; None where there is none."""
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, OSError, yaml.YAMLError, RecursionError):  # an unreadable card states no licence
        metadata = None
    licence = (metadata or {}).get("license_name") or (metadata or {}).get("license")
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence) if licence else None
