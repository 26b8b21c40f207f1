"""Resolve the names in params.yaml to file requests, and record what the files are.

Notable:
- a record holds name, size, hash and licence of a file, never where a copy was found
- the hub is asked once for an encoder: then the record beside its files holds their hashes
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from qc.config.references import HubReference, encoder_name, file_format, hub_reference, is_address, is_folder
from qc.config.schema import Section
from qc.config.sources import Pin, Sources
from qc.errors import QcError
from qc.fetch.fetcher import Digest, FileRequest
from qc.fetch.hub import Address, explain_missing, find_files, read_licence
from qc.files import CARD, ENCODER_FILES, RECORD, read_json


class EncoderRecord(Section):
    """Content of data/encoders/NAME/source.json.

    Attributes:
        repository: Of the hub, `owner/name`; None for a local folder.
        revision: Its commit.
        licence: As its source states it; None where it states none.
        files: Size and SHA-256 of each file.
    """

    repository: str | None
    revision: str | None
    licence: str | None
    files: Mapping[str, Pin]


@dataclass(frozen=True)
class QuestionFile:
    """A resolved question file.

    Attributes:
        request: The file.
        name: As in params.yaml; the last part of an address or of a path outside the project.
        licence: As its source states it; None where it states none.
        columns: Columns of text and labels; None for a label file.
    """

    request: FileRequest
    name: str
    licence: str | None
    columns: Mapping[str, str | None] | None

    def record(self) -> dict[str, Any]:
        """Entry of data/raw/files.json, once the file is there."""
        target, found = self.request.target, self.request.expected.completed_from(self.request.target)
        about = {"file": target.name, "name": self.name, "bytes": found.size, "sha256": found.value}
        return {**about, "licence": self.licence, "columns": self.columns}


def resolve_questions(
    sources: Sources,
    key: str,
    reference: str,
    sha256: str | None,
    columns: Mapping[str, str | None],
    folder: Path,
) -> QuestionFile:
    """Resolve a reference to a question file, which goes to `folder` under the name of its key.

    Args:
        sources: The pinned files.
        key: Of params.yaml: `train` or `test`, below `fetch`.
        reference: Its value.
        sha256: The expected SHA-256, if params.yaml has one.
        columns: Columns of text and labels in a table.
        folder: Where the file goes.

    Raises:
        QcError: There is no such file, or its SHA-256 is another.
    """
    ending = file_format(reference)
    target = folder / f"{key}{ending}"
    columns = None if ending == ".label" else columns
    if pinned := sources.labels.get(reference):
        if sha256 not in (None, pinned.sha256):
            raise QcError(
                f"params.yaml: fetch.{key}_sha256: invalid value {sha256!r}; expected null, or what "
                f"data/sources.yaml pins of {reference}, {pinned.sha256}"
            )
        request = FileRequest(target, Digest.of_pin(pinned), reference, urls=pinned.urls, packages=pinned.packages)
        return QuestionFile(request, reference, pinned.licence, columns)
    if is_address(reference):
        name = PurePath(urlsplit(reference).path).name
        expected = Digest(None, sha256 or "")  # the settings require one for an address
        return QuestionFile(FileRequest(target, expected, name, urls=[reference]), name, None, columns)
    if not Path(reference).is_file():
        raise QcError(
            f"params.yaml: fetch.{key}: {reference!r} is no label file of data/sources.yaml, and no file is there; "
            f"expected {', '.join(sources.labels)}, or the path or address of a file of your own"
        )
    return _own_file(key, Path(reference), sha256, columns, target)


def resolve_corrections(reference: str, folder: Path) -> QuestionFile:
    """Resolve `fetch.corrections`, whose file goes to `folder`; QcError where there is no such file."""
    if not Path(reference).is_file():
        raise QcError(
            f"params.yaml: fetch.corrections: {reference!r}: no such file; expected null, or the path of a table with "
            "the columns text and label"
        )
    return _own_file("corrections", Path(reference), None, None, folder / f"corrections{file_format(reference)}")


def _own_file(
    key: str, path: Path, sha256: str | None, columns: Mapping[str, str | None] | None, target: Path
) -> QuestionFile:
    """Describe a file of the user's own; QcError where its SHA-256 is not the expected one."""
    expected = Digest.of_file(path)
    if sha256 not in (None, expected.value):
        raise QcError(
            f"{path}: SHA-256 {expected.value}, but params.yaml has fetch.{key}_sha256: {sha256}; put the right file "
            "there, or its SHA-256 into params.yaml"
        )
    inside = not path.is_absolute() and ".." not in path.parts
    return QuestionFile(
        FileRequest(target, expected, path.name, paths=[path]), path.as_posix() if inside else path.name, None, columns
    )


@dataclass(frozen=True)
class EncoderFolder:
    """A resolved encoder.

    Attributes:
        requests: Its files.
        folder: Where they go.
        reference: Reference to the hub; None for a local folder.
        licence: As data/sources.yaml states it; None: as its model card states it.
    """

    requests: Sequence[FileRequest]
    folder: Path
    reference: HubReference | None
    licence: str | None

    def record(self) -> dict[str, Any]:
        """Content of data/encoders/NAME/source.json, once the files are there."""
        found = {file.target.name: file.expected.completed_from(file.target) for file in self.requests}
        return {
            "repository": self.reference and self.reference.repository,
            "revision": self.reference and self.reference.revision,
            "licence": self.licence or read_licence(self.folder / CARD),
            "files": {name: {"bytes": expected.size, "sha256": expected.value} for name, expected in found.items()},
        }


def resolve_encoder(
    sources: Sources, reference: str, folder: Path, mirror: Path | None, address: Address
) -> EncoderFolder:
    """Resolve a reference to an encoder, whose files go to `folder`.

    Args:
        sources: The pinned encoders.
        reference: As params.yaml names the encoder.
        folder: Where its files go; named after it.
        mirror: The folder of QC_MIRROR, if it is set.
        address: Maps (repository, file name, revision) to the hub's address of the file.

    Raises:
        QcError: There is no such encoder, or it cannot be used.
    """
    name = encoder_name(reference)
    if is_folder(reference):
        paths = {file: Path(reference) / file for file in (*ENCODER_FILES, CARD)}
        if missing := [file for file in ENCODER_FILES if not paths[file].is_file()]:
            raise QcError(explain_missing(reference, missing, lambda file: (Path(reference) / file).is_file()))
        requests = [
            FileRequest(folder / file, Digest.of_file(path), f"{name}/{file}", paths=[path])
            for file, path in paths.items()
            if path.is_file()
        ]
        return EncoderFolder(requests, folder, None, None)
    hub = hub_reference(reference)
    if hub is None:
        pinned = sources.encoder(reference)
        hub, licence, packages = HubReference(pinned.repository, pinned.revision), pinned.licence, pinned.packages
        expected_files = {file: Digest.of_pin(pin) for file, pin in pinned.files.items()}
    else:
        licence, packages = None, ()
        places = [folder, *([mirror / name] if mirror else [])]
        expected_files = next(_recorded(hub, places), None) or find_files(hub, address)
    requests = [
        FileRequest(
            folder / file,
            expected,
            f"{name}/{file}",
            urls=[address(hub.repository, file, hub.revision)],
            packages=packages,
        )
        for file, expected in expected_files.items()
    ]
    return EncoderFolder(requests, folder, hub, licence)


def _recorded(reference: HubReference, folders: Sequence[Path]) -> Iterator[dict[str, Digest]]:
    """Read the hashes of this very commit from records in these folders."""
    for folder in folders:
        try:
            record = EncoderRecord.model_validate(read_json(folder / RECORD))
        except (QcError, ValidationError):  # missing or damaged: ask the hub
            continue
        same = (record.repository, record.revision) == (reference.repository, reference.revision)
        if same and set(ENCODER_FILES) <= record.files.keys() <= {*ENCODER_FILES, CARD}:
            yield {file: Digest.of_pin(pin) for file, pin in record.files.items()}
