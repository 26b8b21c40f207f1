"""Resolve the names in params.yaml to file requests, and say what is recorded of them.

Notable:
- a record holds name, size, hash and licence of a file, never where a copy was found
- a record of the same reference tells the hashes: the hub is asked once for an encoder, and a file of the user's own
  that is gone is taken from its copy
- weights are taken only as safetensors: reading a pickle runs code of its author
"""

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from qc.config.sources import Pin, Sources, encoder_name, file_format, hub_reference, is_address, is_folder
from qc.errors import QcError, listed
from qc.fetch.fetcher import Digest, FileRequest
from qc.fetch.http import Downloader
from qc.fetch.hub import hub_places, list_files
from qc.files import CARD, CONFIG, RECORD, TOKENIZER, WEIGHTS, encoder_files, missing_files, read_json

if TYPE_CHECKING:
    from qc.config.settings import FetchConfig

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

File = TypeVar("File")


def resolve_questions(
    key: str, config: "FetchConfig", sources: Sources, record: Path
) -> tuple[FileRequest, dict[str, Any]]:
    """Resolve a reference to a question file, which goes beside the record, under the name of its key.

    Args:
        key: `train`, `test` or `corrections`.
        record: data/raw/files.json.

    Returns:
        The request, and what is recorded besides names, size and hash: the licence, None where the source states none;
        columns of text and labels, None for a label file; of a path outside the project, its SHA-256.

    Raises:
        QcError: There is no such file, or its SHA-256 is another.
    """
    reference, sha256 = getattr(config, key), getattr(config, f"{key}_sha256", None)
    ending = file_format(reference)
    target = record.with_name(f"{key}{ending}")
    columns = None if ending == ".label" or key == "corrections" else config.columns.model_dump()
    about = {"licence": None, "columns": columns}
    if pinned := sources.labels.get(reference):
        if sha256 not in (None, pinned.sha256):
            raise QcError(
                f"params.yaml: fetch.{key}_sha256: invalid value {sha256!r}; expected null, or what "
                f"data/sources.yaml pins of {reference}, {pinned.sha256}"
            )
        expected, places = Digest(pinned.bytes, pinned.sha256), [*pinned.urls, *pinned.packages]
        return FileRequest(target, expected, reference, places), {**about, "licence": pinned.licence}
    if is_address(reference):
        name = PurePath(urlsplit(reference).path).name
        return FileRequest(target, Digest(None, sha256), name, [reference]), about
    path = Path(reference)
    inside = not path.is_absolute() and ".." not in path.parts
    name = path.as_posix() if inside else path.name
    outside = None if inside else _text_sha256(reference)
    expected = Digest.of_file(path) if path.is_file() else None
    expected = expected or _recorded(record, key, name=name, reference_sha256=outside).get(target.name)
    if expected is None:
        near = {name: name for name in sources.labels} | {other.name: str(other) for other in path.parent.glob("*")}
        close = difflib.get_close_matches(path.name, near, n=1)
        hint = f"; did you mean {near[close[0]]}? expected" if close else "; expected"
        fault = f": no such file{hint} null, or the path of a table with the columns text and label"
        if key != "corrections":
            fault = (
                f" is no label file of data/sources.yaml, and no file is there{hint} {', '.join(sources.labels)}, "
                "or the path or address of a file of your own"
            )
        raise QcError(f"params.yaml: fetch.{key}: {reference!r}{fault}")
    if sha256 not in (None, expected.value):
        raise QcError(
            f"{path}: SHA-256 {expected.value}, but params.yaml has fetch.{key}_sha256: {sha256}; put the right file "
            "there, or its SHA-256 into params.yaml"
        )
    return FileRequest(target, expected, name, [path]), {**about, **({"reference_sha256": outside} if outside else {})}


def resolve_encoder(
    reference: str, sources: Sources, folder: Path, mirror: Path | None, downloader: Downloader
) -> tuple[list[FileRequest], dict[str, Any]]:
    """Resolve a reference to an encoder, whose files go to `folder`.

    Args:
        mirror: The folder of QC_MIRROR, whose record of a commit is taken too.

    Returns:
        The requests, and what is recorded: the hub's repository and revision, None for a folder; the licence, None
        where data/sources.yaml does not state it; files, empty yet; of a folder, the SHA-256 of its path.

    Raises:
        QcError: There is no such encoder, or it cannot be used.
    """
    name, licence, packages = encoder_name(reference), None, ()
    if is_folder(reference):
        own, identity = Path(reference), {"reference_sha256": _text_sha256(reference)}
        expected = {} if own.is_dir() else _recorded(folder / RECORD, **identity)
        if not expected:
            files = _choose(reference, {path.name: path for path in own.glob("*") if path.is_file()})
            expected = {file: Digest.of_file(path) for file, path in files.items()}
        requests = [FileRequest(folder / file, expected[file], f"{name}/{file}", [own / file]) for file in expected]
        return requests, {"repository": None, "revision": None, "licence": None, "files": {}, **identity}
    if hub := hub_reference(reference):
        repository, revision = hub
        expected = {}
        for place in (folder, *([mirror / name] if mirror else [])):
            expected = expected or _recorded(place / RECORD, repository=repository, revision=revision)
        expected = expected or _choose(reference, list_files(repository, revision, downloader))
    elif pinned := sources.encoders.get(reference):
        repository, revision, licence, packages = pinned.repository, pinned.revision, pinned.licence, pinned.packages
        expected = {file: Digest(pin.bytes, pin.sha256) for file, pin in pinned.files.items()}
    else:
        raise QcError(
            f"params.yaml: fetch.encoders: invalid value {reference!r}; expected one of data/sources.yaml, "
            f"{', '.join(sources.encoders)}, hub:owner/name@commit, or the path of a folder"
        )
    requests = [
        FileRequest(folder / file, digest, f"{name}/{file}", [*hub_places(repository, revision, file), *packages])
        for file, digest in expected.items()
    ]
    return requests, {"repository": repository, "revision": revision, "licence": licence, "files": {}}


def _recorded(path: Path, key: str | None = None, **identity: str | None) -> dict[str, Digest]:
    """Read size and hash of files from a record; empty where it is of something else, missing or damaged.

    Args:
        key: Of a question file's entry; None for an encoder's record.
        identity: What the record must say.
    """
    try:
        record = read_json(path)[key] if key else read_json(path)
        if any(record.get(name) != value for name, value in identity.items()):
            return {}
        pins = {record["file"]: record} if key else _choose(str(path), record["files"])
        pins = {file: Pin(bytes=pin["bytes"], sha256=pin["sha256"]) for file, pin in pins.items()}
        return {file: Digest(pin.bytes, pin.sha256) for file, pin in pins.items()}
    except (QcError, LookupError, TypeError, AttributeError, ValueError):
        return {}


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _choose(encoder: str, files: Mapping[str, File]) -> dict[str, File]:
    """Choose the files to take among those of a folder or repository; QcError where an encoder's are missing."""
    if missing := missing_files(files):
        pickles = [file for file in PICKLES if file in files]
        if WEIGHTS in missing and pickles:
            raise QcError(
                f"{encoder}: its weights are there as a pickle alone ({pickles[0]}), and reading a pickle runs code "
                f"of its author; expected an encoder with {WEIGHTS}"
            )
        expected = f"{CONFIG}, {TOKENIZER} and {WEIGHTS} or its shards with their index"
        raise QcError(f"{encoder}: has no {listed(missing)}; an encoder is {expected}")
    return {file: files[file] for file in (*encoder_files(files), CARD) if file in files}
