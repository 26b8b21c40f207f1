"""Ask the hub for the files of an encoder, before any of them is downloaded.

Notable:
- weights are taken only as safetensors: reading a pickle runs code of its author
- the hub states a hash of every file, SHA-256 for large files and git's for small ones; the bytes must match it
"""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import yaml
from huggingface_hub import HfFileMetadata, get_hf_file_metadata, hf_hub_url, metadata_load
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from qc.config.references import HubReference
from qc.errors import QcError
from qc.fetch.fetcher import Digest
from qc.fetch.http import TRANSIENT_STATUS, call_with_timeout
from qc.files import CARD, ENCODER_FILES, WEIGHTS

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARDS = "model.safetensors.index.json"
TRIES, BACKOFF, TIMEOUT = 3, 1, 10  # the last two in seconds
Address = Callable[[str, str, str], str]


def find_files(reference: HubReference, address: Address) -> dict[str, Digest]:
    """Find size and hash of the files of an encoder, and of its model card if there is one, by file name.

    Args:
        reference: The repository and commit.
        address: Maps (repository, file name, revision) to the hub's address of the file.

    Raises:
        QcError: The hub cannot be reached or refuses, there is no such commit, or it lacks a file.
    """
    name = f"hub:{reference.repository}@{reference.revision}"

    def expected(file: str) -> Digest | None:
        return _expected(address(reference.repository, file, reference.revision), name, file)

    found = {file: digest for file in (*ENCODER_FILES, CARD) if (digest := expected(file))}
    if missing := [file for file in ENCODER_FILES if file not in found]:
        raise QcError(explain_missing(name, missing, lambda file: expected(file) is not None))
    return found


def explain_missing(name: str, missing: list[str], has: Callable[[str], bool]) -> str:
    """Message for an encoder that lacks files.

    Args:
        name: Its name in messages.
        missing: The files that it lacks.
        has: Says whether it has a file.
    """
    if WEIGHTS in missing:
        if has(SHARDS):
            return (
                f"{name}: its weights are in several files ({SHARDS}), which is not supported; expected one {WEIGHTS}"
            )
        if pickles := [file for file in PICKLES if has(file)]:
            return (
                f"{name}: its weights are there as a pickle alone ({pickles[0]}), and reading a pickle runs code of "
                f"its author; expected an encoder with {WEIGHTS}"
            )
    return f"{name}: has no {', '.join(missing)}; an encoder is {', '.join(ENCODER_FILES)}"


def read_licence(card: Path) -> str | None:
    """Read the licence from the metadata of a model card; None where there is none."""
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, OSError, yaml.YAMLError):  # an unreadable card states no licence
        metadata = None
    licence = (metadata or {}).get("license_name") or (metadata or {}).get("license")
    return str(licence) if licence else None


def hub_url(repository: str, file: str, revision: str) -> str:
    """Address of a file on the hub; `HF_ENDPOINT` names another hub."""
    return hf_hub_url(repository, file, revision=revision)


def hub_headers() -> dict[str, dict[str, str]]:
    """Headers for the hub, the access token among them, by host."""
    return {urlsplit(hub_url("owner/name", "file", "main")).netloc: build_hf_headers()}


def _expected(url: str, name: str, file: str) -> Digest | None:
    """Ask for size and hash of a file; None where there is no such file."""
    try:
        found = _ask(url)
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise QcError(
            f"{name}: gated: its owner gives access on the hub; ask for it there, then name your token in HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise QcError(f"{name}: the hub knows no such commit of this repository ({url})") from None
    except RepositoryNotFoundError:
        raise QcError(
            f"{name}: the hub knows no such repository, or shows it only to some ({url}); if you have access, name "
            "your token in HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        if error.response.status_code == 404:
            return None
        status = error.response.status_code
        remedy = "; if you have access, name your token in HF_TOKEN" if status in (401, 403) else ""
        raise QcError(f"{name}: {file}: the hub answered with status {status} ({url}){remedy}") from None
    except (httpx2.HTTPError, TimeoutError) as error:
        raise QcError(
            f"{name}: {file}: the hub cannot be reached: {error or type(error).__name__} ({url}). HF_ENDPOINT names "
            "another; or copy data/encoders/NAME from a machine that has it into the folder of QC_MIRROR"
        ) from None
    digest = found.etag or ""
    if not found.size or len(digest) not in Digest.ALGORITHMS:
        raise QcError(f"{name}: {file}: the hub states no size and hash ({url}), so its bytes could not be verified")
    return Digest(found.size, digest)


def _ask(url: str) -> HfFileMetadata:
    """Ask for the metadata of a file, with retries where that can help."""
    for attempt in range(1, TRIES + 1):
        try:
            return call_with_timeout(TIMEOUT * TRIES, lambda: get_hf_file_metadata(url, timeout=TIMEOUT))
        except (httpx2.TimeoutException, TimeoutError, HfHubHTTPError) as error:
            transient = not isinstance(error, HfHubHTTPError) or error.response.status_code in TRANSIENT_STATUS
            if attempt == TRIES or not transient:
                raise
        time.sleep(BACKOFF * 2 ** (attempt - 1))
