"""Resolve the names in params.yaml to file requests, and record what the files are.

Notable:
- a record holds name, size, hash and licence of a file, never where a copy was found
- the hub is asked once for an encoder: then the record beside its files holds their hashes
"""

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from qc.config.sources import (
    EncoderSource,
    HubReference,
    Sources,
    encoder_name,
    file_format,
    hub_reference,
    is_address,
    is_folder,
)
from qc.errors import QcError, listed
from qc.fetch.fetcher import Digest, FileRequest
from qc.fetch.http import Downloader
from qc.fetch.hub import hub_places, list_files, read_licence
from qc.files import CARD, CONFIG, RECORD, TOKENIZER, WEIGHTS, encoder_files, missing_files, read_json

RAW_RECORD = "files.json"  # beside the question files
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class QuestionFile(FileRequest):
    """A resolved question file.

    Attributes:
        source: Its name in params.yaml; the last part of an address or of a path outside the project.
        licence: As its source states it; None where it states none.
        columns: Columns of text and labels; None for a label file.
        reference_sha256: Of a path outside the project, which is not recorded itself; None for any other file.
    """

    source: str
    licence: str | None
    columns: Mapping[str, str | None] | None
    reference_sha256: str | None = None

    def record(self) -> dict[str, Any]:
        """Entry of data/raw/files.json, once the file is there."""
        about = {"file": self.target.name, "name": self.source, **self.pin()}
        outside = {"reference_sha256": self.reference_sha256} if self.reference_sha256 else {}
        return {**about, "licence": self.licence, "columns": self.columns, **outside}


@dataclass(frozen=True)
class EncoderFolder:
    """A resolved encoder.

    Attributes:
        requests: Its files.
        folder: Where they go.
        reference: Reference to the hub; None for a local folder.
        licence: As data/sources.yaml states it; None: as its model card states it.
        reference_sha256: Of the path of a local folder, which is not recorded itself; None for a published encoder.
    """

    requests: Sequence[FileRequest]
    folder: Path
    reference: HubReference | None
    licence: str | None
    reference_sha256: str | None = None

    def record(self) -> dict[str, Any]:
        """Content of data/encoders/NAME/source.json, once the files are there."""
        return {
            "repository": self.reference and self.reference.repository,
            "revision": self.reference and self.reference.revision,
            "licence": self.licence or read_licence(self.folder / CARD),
            "files": {file.target.name: file.pin() for file in self.requests},
            **({"reference_sha256": self.reference_sha256} if self.reference_sha256 else {}),
        }


@dataclass(frozen=True)
class Resolver:
    """Resolves the references of params.yaml.

    Attributes:
        sources: The pinned files.
        mirror: The folder of QC_MIRROR, if it is set.
        downloader: Asks the hub.
    """

    sources: Sources
    mirror: Path | None
    downloader: Downloader

    def questions(
        self, key: str, reference: str, sha256: str | None, columns: Mapping[str, str | None] | None, folder: Path
    ) -> QuestionFile:
        """Resolve a reference to a question file, which goes to `folder` under the name of its key.

        Args:
            key: Of params.yaml, below `fetch`: `train`, `test` or `corrections`.
            reference: Its value.
            sha256: The expected SHA-256, if params.yaml has one.
            columns: Columns of text and labels in a table.
            folder: Where the file goes.

        Raises:
            QcError: There is no such file, or its SHA-256 is another.
        """
        ending = file_format(reference)
        target, columns = folder / f"{key}{ending}", None if ending == ".label" else columns
        if pinned := self.sources.labels.get(reference):
            if sha256 not in (None, pinned.sha256):
                raise QcError(
                    f"params.yaml: fetch.{key}_sha256: invalid value {sha256!r}; expected null, or what "
                    f"data/sources.yaml pins of {reference}, {pinned.sha256}"
                )
            places = [*self._mirrored(reference), *pinned.urls, *pinned.packages]
            return QuestionFile(target, Digest.of_pin(pinned), reference, places, reference, pinned.licence, columns)
        if is_address(reference):
            name = PurePath(urlsplit(reference).path).name
            expected = Digest(None, sha256 or "")  # the settings require one for an address
            return QuestionFile(target, expected, name, [*self._mirrored(name), reference], name, None, columns)
        path = Path(reference)
        inside = not path.is_absolute() and ".." not in path.parts
        name, outside = (path.as_posix(), None) if inside else (path.name, _text_sha256(reference))
        if not path.is_file() and self._is_kept(target, key, name, outside):
            print(f"warning: fetch.{key}: {name} is not here; {target}, its copy, stays", file=sys.stderr)
            path = target
        if not path.is_file():
            fault = ": no such file; expected null, or the path of a table with the columns text and label"
            if key != "corrections":
                fault = (
                    f" is no label file of data/sources.yaml, and no file is there; expected "
                    f"{', '.join(self.sources.labels)}, or the path or address of a file of your own"
                )
            raise QcError(f"params.yaml: fetch.{key}: {reference!r}{fault}")
        expected = Digest.of_file(path)
        if sha256 not in (None, expected.value):
            raise QcError(
                f"{path}: SHA-256 {expected.value}, but params.yaml has fetch.{key}_sha256: {sha256}; put the right "
                "file there, or its SHA-256 into params.yaml"
            )
        return QuestionFile(target, expected, path.name, [path], name, None, columns, outside)

    def _is_kept(self, target: Path, key: str, name: str, outside: str | None) -> bool:
        """Whether `target` is the file that an earlier run recorded under this name and reference."""
        try:
            record = read_json(target.with_name(RAW_RECORD))[key]
            same = record["name"] == name and record.get("reference_sha256") == outside
            return same and Digest(record["bytes"], record["sha256"]).matches(target)
        except (QcError, KeyError, TypeError):
            return False

    def encoder(self, reference: str, folder: Path) -> EncoderFolder:
        """Resolve a reference to an encoder, whose files go to `folder`, named after it.

        Raises:
            QcError: There is no such encoder, or it cannot be used.
        """
        name = encoder_name(reference)
        if is_folder(reference):
            source = Path(reference)
            kept = {} if source.is_dir() else _kept_encoder(folder, reference)
            if kept:
                print(f"warning: fetch.encoders: {reference} is not here; {folder}, its copy, stays", file=sys.stderr)
                source = folder
            names = kept or [path.name for path in source.glob("*") if path.is_file()]
            requests = [
                FileRequest(
                    folder / file, kept.get(file) or Digest.of_file(source / file), f"{name}/{file}", [source / file]
                )
                for file in _choose(reference, names)
            ]
            return EncoderFolder(requests, folder, None, None, _text_sha256(reference))
        if hub := hub_reference(reference):
            licence, packages = None, ()
            expected = self._hub_files(hub, [folder, *self._mirrored(name)])
        elif pinned := self.sources.encoders.get(reference):
            hub = HubReference(pinned.repository, pinned.revision)
            licence, packages = pinned.licence, pinned.packages
            expected = {file: Digest.of_pin(pin) for file, pin in pinned.files.items()}
        else:
            raise QcError(
                f"params.yaml: fetch.encoders: invalid value {reference!r}; expected one of data/sources.yaml, "
                f"{', '.join(self.sources.encoders)}, hub:owner/name@commit, or the path of a folder"
            )
        requests = []
        for file, digest in expected.items():
            places = [*self._mirrored(f"{name}/{file}"), *hub_places(hub, file), *packages]
            requests.append(FileRequest(folder / file, digest, f"{name}/{file}", places))
        return EncoderFolder(requests, folder, hub, licence)

    def _mirrored(self, name: str) -> list[Path]:
        return [self.mirror / name] if self.mirror else []

    def _hub_files(self, hub: HubReference, folders: Sequence[Path]) -> dict[str, Digest]:
        """Size and hash of an encoder's files: from a record of this very commit in one of `folders`, or by the hub."""
        for folder in folders:
            try:
                record = EncoderSource.model_validate(read_json(folder / RECORD))
            except (QcError, ValidationError):  # missing or damaged: ask the hub
                continue
            same = (record.repository, record.revision) == (hub.repository, hub.revision)
            if same and record.files.keys() <= {*encoder_files(record.files), CARD}:
                return {file: Digest.of_pin(pin) for file, pin in record.files.items()}
        found = list_files(hub, self.downloader)
        chosen = {file: found[file] for file in _choose(str(hub), found)}
        for file, digest in chosen.items():
            if len(digest.value) not in Digest.ALGORITHMS:
                raise QcError(f"{hub}: {file}: the hub states no hash, so its bytes could not be verified")
        return chosen


def _kept_encoder(folder: Path, reference: str) -> dict[str, Digest]:
    """Size and hash of the files that an earlier run took from a folder of this path; empty where none is recorded."""
    try:
        record = read_json(folder / RECORD)
        same = record.get("reference_sha256") == _text_sha256(reference)
        return {file: Digest(pin["bytes"], pin["sha256"]) for file, pin in record["files"].items()} if same else {}
    except (QcError, KeyError, TypeError):
        return {}


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _choose(encoder: str, names: Collection[str]) -> list[str]:
    """Choose the files to take among those of a folder or repository; QcError where an encoder's are missing."""
    if missing := missing_files(names):
        pickles = [file for file in PICKLES if file in names]
        if WEIGHTS in missing and pickles:
            raise QcError(
                f"{encoder}: its weights are there as a pickle alone ({pickles[0]}), and reading a pickle runs code "
                f"of its author; expected an encoder with {WEIGHTS}"
            )
        expected = f"{CONFIG}, {TOKENIZER} and {WEIGHTS} or its shards with their index"
        raise QcError(f"{encoder}: has no {listed(missing)}; an encoder is {expected}")
    return [*encoder_files(names), *([CARD] if CARD in names else [])]
