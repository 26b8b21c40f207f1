"""From what params.yaml names to files that can be fetched, and to a record of what they are.

Notable:
- a record tells of a file what its name, bytes and terms are; never where a copy was found, which changes no result
- an encoder of the hub is looked up there once: after that its record, beside its files, says what they must be
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from qc.artifacts import read_json
from qc.errors import QcError
from qc.fetching import Proof, Wanted
from qc.hub import Address, explain_missing, find_files, read_licence
from qc.references import HubReference, encoder_name, file_format, hub_reference, is_address, is_folder
from qc.schema import Section
from qc.sources import CARD, ENCODER_FILES, RECORD, Pin, Sources


class EncoderRecord(Section):
    """The content of data/encoders/NAME/source.json.

    Attributes:
        repository: Of the hub, `owner/name`; None for a local folder.
        revision: Its commit.
        licence: As its source states it; None where it states none.
        files: What the files are.
    """

    repository: str | None
    revision: str | None
    licence: str | None
    files: Mapping[str, Pin]


@dataclass(frozen=True)
class QuestionFile:
    """A file of questions to be had.

    Attributes:
        wanted: The file.
        name: As params.yaml has it; of a path outside the project or an address, its last part.
        licence: As its source states it; None where nobody did.
        columns: Where text and labels are; None in a label file, which has none.
    """

    wanted: Wanted
    name: str
    licence: str | None
    columns: Mapping[str, str | None] | None

    def record(self) -> dict[str, Any]:
        """What data/raw/files.json says of the file, once it is there."""
        target, found = self.wanted.target, self.wanted.proof.of_proven(self.wanted.target)
        about = {"file": target.name, "name": self.name, "bytes": found.size, "sha256": found.digest}
        return {**about, "licence": self.licence, "columns": self.columns}


def find_questions(
    sources: Sources,
    key: str,
    reference: str,
    sha256: str | None,
    columns: Mapping[str, str | None],
    folder: Path,
) -> QuestionFile:
    """What it takes to put a file of questions into `folder`, called after the key that names it.

    Args:
        sources: The pinned files.
        key: Of params.yaml: `train` or `test`, below `fetch`.
        reference: What stands there.
        sha256: What the file must be, if that was said.
        columns: Where a table's text and labels are.
        folder: Where the file goes.

    Raises:
        QcError: There is no such file, or it is not what it must be.
    """
    ending = file_format(reference)
    target = folder / f"{key}{ending}"
    columns = None if ending == ".label" else columns
    if pinned := sources.labels.get(reference):
        if sha256 not in (None, pinned.sha256):
            raise QcError(
                f"params.yaml: fetch.{key}_sha256: {sha256!r} is not possible; allowed: null, or what "
                f"data/sources.yaml pins of {reference}, {pinned.sha256}"
            )
        wanted = Wanted(target, Proof.of_pin(pinned), reference, urls=pinned.urls, packages=pinned.packages)
        return QuestionFile(wanted, reference, pinned.licence, columns)
    if is_address(reference):
        name = PurePath(urlsplit(reference).path).name
        proof = Proof(None, sha256 or "")  # params.yaml without one was refused
        return QuestionFile(Wanted(target, proof, name, urls=[reference]), name, None, columns)
    path = Path(reference)
    if not path.is_file():
        raise QcError(
            f"params.yaml: fetch.{key}: {reference!r} is no label file of data/sources.yaml, and no file is there; "
            f"allowed: {', '.join(sources.labels)}, or the path or address of a file of your own"
        )
    proof = Proof.of_file(path)
    if sha256 not in (None, proof.digest):
        raise QcError(
            f"{path}: SHA-256 {proof.digest}, but params.yaml has fetch.{key}_sha256: {sha256}; put the right file "
            "there, or its SHA-256 into params.yaml"
        )
    inside = not path.is_absolute() and ".." not in path.parts
    return QuestionFile(
        Wanted(target, proof, path.name, paths=[path]), path.as_posix() if inside else path.name, None, columns
    )


@dataclass(frozen=True)
class EncoderFolder:
    """An encoder to be had.

    Attributes:
        wanted: Its files.
        folder: Where they go.
        reference: Of the hub, or None for a local folder.
        licence: As its source states it; None for what its model card says.
    """

    wanted: Sequence[Wanted]
    folder: Path
    reference: HubReference | None
    licence: str | None

    def record(self) -> dict[str, Any]:
        """The content of data/encoders/NAME/source.json, once its files are there."""
        found = {file.target.name: file.proof.of_proven(file.target) for file in self.wanted}
        return {
            "repository": self.reference and self.reference.repository,
            "revision": self.reference and self.reference.revision,
            "licence": self.licence or read_licence(self.folder / CARD),
            "files": {name: {"bytes": proof.size, "sha256": proof.digest} for name, proof in found.items()},
        }


def find_encoder(
    sources: Sources, reference: str, folder: Path, mirror: Path | None, address: Address
) -> EncoderFolder:
    """What it takes to put an encoder's files into `folder`.

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
        wanted = [
            Wanted(folder / file, Proof.of_file(path), f"{name}/{file}", paths=[path])
            for file, path in paths.items()
            if path.is_file()
        ]
        return EncoderFolder(wanted, folder, None, None)
    hub = hub_reference(reference)
    if hub is None:
        pinned = sources.encoder(reference)
        hub, licence, packages = HubReference(pinned.repository, pinned.revision), pinned.licence, pinned.packages
        proofs = {file: Proof.of_pin(pin) for file, pin in pinned.files.items()}
    else:
        licence, packages = None, ()
        places = [folder, *([mirror / name] if mirror else [])]
        proofs = next(_recorded(hub, places), None) or find_files(hub, address)
    wanted = [
        Wanted(
            folder / file,
            proof,
            f"{name}/{file}",
            urls=[address(hub.repository, file, hub.revision)],
            packages=packages,
        )
        for file, proof in proofs.items()
    ]
    return EncoderFolder(wanted, folder, hub, licence)


def _recorded(reference: HubReference, folders: Sequence[Path]) -> Iterator[dict[str, Proof]]:
    """What the records in these folders say of the files of this very commit."""
    for folder in folders:
        try:
            record = EncoderRecord.model_validate(read_json(folder / RECORD))
        except (QcError, ValidationError):  # none yet, or damaged: the hub knows
            continue
        same = (record.repository, record.revision) == (reference.repository, reference.revision)
        if same and set(ENCODER_FILES) <= record.files.keys() <= {*ENCODER_FILES, CARD}:
            yield {file: Proof.of_pin(pin) for file, pin in record.files.items()}
