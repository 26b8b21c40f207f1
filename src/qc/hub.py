"""What the hub says of the files of an encoder, asked before any of them is fetched.

Notable:
- weights are taken as safetensors alone: reading a pickle runs code of whoever wrote it
- the hub states a hash of every file, the SHA-256 of large ones and git's of small ones; the bytes must fit it
"""

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import HfFileMetadata, get_hf_file_metadata, metadata_load
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from qc.downloads import TRANSIENT_STATUS, within
from qc.errors import QcError
from qc.fetching import Proof
from qc.references import HubReference
from qc.sources import CARD, ENCODER_FILES, WEIGHTS

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARDS = "model.safetensors.index.json"
TRIES, BACKOFF, TIMEOUT = 3, 1, 10  # the last two in seconds

Address = Callable[[str, str, str], str]


def find_files(reference: HubReference, address: Address) -> dict[str, Proof]:
    """What the files of an encoder must be, by file name: those needed, and its model card if there is one.

    Args:
        reference: The repository and commit.
        address: Maps (repository, file name, revision) to the hub's address of the file.

    Raises:
        QcError: The hub cannot be reached or refuses, there is no such commit, or it lacks a file.
    """
    name = f"hub:{reference.repository}@{reference.revision}"

    def prove(file: str) -> Proof | None:
        return _prove(address(reference.repository, file, reference.revision), name, file)

    found = {file: proof for file in (*ENCODER_FILES, CARD) if (proof := prove(file))}
    if missing := [file for file in ENCODER_FILES if file not in found]:
        raise QcError(explain_missing(name, missing, lambda file: prove(file) is not None))
    return found


def explain_missing(name: str, missing: list[str], has: Callable[[str], bool]) -> str:
    """Why an encoder cannot be used.

    Args:
        name: What messages call it.
        missing: Files that it lacks.
        has: Whether it has a file.
    """
    if WEIGHTS in missing:
        if has(SHARDS):
            return (
                f"{name}: its weights are in several files ({SHARDS}), which is not supported; allowed: one {WEIGHTS}"
            )
        if pickles := [file for file in PICKLES if has(file)]:
            return (
                f"{name}: its weights are there as a pickle alone ({pickles[0]}), and reading a pickle runs code of "
                f"whoever wrote it; allowed: an encoder with {WEIGHTS}"
            )
    return f"{name}: has no {', '.join(missing)}; an encoder is {', '.join(ENCODER_FILES)}"


def read_licence(card: Path) -> str | None:
    """The licence that a model card states in its metadata; None where it states none, or there is no card."""
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, OSError, yaml.YAMLError):  # a card that cannot be read states nothing
        metadata = None
    licence = (metadata or {}).get("license_name") or (metadata or {}).get("license")
    return str(licence) if licence else None


def _prove(url: str, name: str, file: str) -> Proof | None:
    """What a file must be; None where there is no such file."""
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
    if not found.size or len(digest) not in Proof.ALGORITHMS:
        raise QcError(
            f"{name}: {file}: the hub states no size and hash of it ({url}), so that no bytes could be proven"
        )
    return Proof(found.size, digest)


def _ask(url: str) -> HfFileMetadata:
    """The hub's metadata of a file, asked again where that can help."""
    for attempt in range(1, TRIES + 1):
        try:
            return within(TIMEOUT * TRIES, lambda: get_hf_file_metadata(url, timeout=TIMEOUT))
        except (httpx2.TimeoutException, TimeoutError, HfHubHTTPError) as error:
            transient = not isinstance(error, HfHubHTTPError) or error.response.status_code in TRANSIENT_STATUS
            if attempt == TRIES or not transient:
                raise
        time.sleep(BACKOFF * 2 ** (attempt - 1))
