"""Fetch outside files: find a copy, verify its hash, move it into place.

Notable:
- every place is only a candidate, the hash decides: where a file came from can never change a result
- all files are fetched before any is moved into place: if one fails, the earlier files stay
- nothing larger than the pinned size, or than `LARGEST`, is written
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, ClassVar, Self

from huggingface_hub.utils.sha import git_hash
from tqdm import tqdm

from qc.config.sources import Package, Pin
from qc.errors import NO_ROOM, QcError
from qc.fetch.http import Downloader, Unavailable
from qc.fetch.packages import Packages
from qc.files import file_sha256, new_file

LARGEST = 1 << 30  # bytes of a file of unknown size

Place = Path | str | Package  # a file to copy, an address, a package of a registry


@dataclass(frozen=True)
class Digest:
    """Expected size and hash of a file.

    Attributes:
        size: In bytes; None where it is unknown.
        value: SHA-256 as 64 hex digits, or git's hash as 40.
    """

    size: int | None
    value: str

    ALGORITHMS: ClassVar = {64: "SHA-256", 40: "git's hash"}

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Compute the digest of a file."""
        return cls(path.stat().st_size, file_sha256(path))

    @classmethod
    def of_pin(cls, pin: Pin) -> Self:
        """Take the digest that data/sources.yaml or a record pins."""
        return cls(pin.bytes, pin.sha256)

    def matches(self, path: Path) -> bool:
        """Whether a file exists and has this size and hash."""
        if not path.is_file() or (self.size is not None and path.stat().st_size != self.size):
            return False
        return self.value == (file_sha256(path) if len(self.value) == 64 else git_hash(path.read_bytes()))

    def __str__(self) -> str:
        return f"{self.ALGORITHMS[len(self.value)]} {self.value}"


@dataclass(frozen=True)
class FileRequest:
    """A file to fetch.

    Attributes:
        target: Where it goes.
        expected: Its size and hash.
        name: Its path below the folder of QC_MIRROR.
        places: Where it may be, tried in this order.
    """

    target: Path
    expected: Digest
    name: str
    places: Sequence[Place]

    @property
    def own_file(self) -> Path | None:
        """The user's own file, which is the only place; None for a file that is published."""
        own = len(self.places) == 1 and isinstance(self.places[0], Path) and self.places[0] != self.target
        return self.places[0] if own else None

    def pin(self) -> dict[str, int | str]:
        """Size and SHA-256 of the file, once it is there."""
        known = self.expected.size is not None and len(self.expected.value) == 64
        found = self.expected if known else Digest.of_file(self.target)
        return {"bytes": found.size, "sha256": found.value}


def fetch(requests: Sequence[FileRequest], downloader: Downloader) -> dict[Path, str]:
    """Fetch every requested file; files that match already are left alone.

    Returns:
        Where each file came from, by target.

    Raises:
        QcError: A file is nowhere to be found, or there is no room for it; nothing was changed.
    """
    origins: dict[Path, str] = {}
    with ExitStack() as stack:
        packages = Packages(Path(stack.enter_context(TemporaryDirectory(prefix="qc-packages-"))))
        for file in tqdm(requests, desc="fetch", unit="file", leave=False, disable=None):
            if file.expected.matches(file.target):
                origins[file.target] = "already here"
                continue
            temporary = stack.enter_context(new_file(file.target))  # moved into place when all are there
            with temporary.open("wb") as out:
                origins[file.target] = _find(file, out, downloader, packages)
    return origins


def _find(file: FileRequest, out: BinaryIO, downloader: Downloader, packages: Packages) -> str:
    """Write the first matching candidate to `out`; return its place.

    Raises:
        QcError: No candidate matches.
        OSError: There is no room for it.
    """
    failures, size = [], file.expected.size
    limit = LARGEST if size is None else size
    for place in file.places:
        out.seek(0)
        out.truncate()
        try:
            if isinstance(place, Path):
                _copy(place, out, size)
            elif isinstance(place, str):
                downloader.download(place, out, limit, exact=size is not None)
            else:
                packages.copy(place, file.target.name, out, limit)
        except (Unavailable, OSError) as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            failures.append(f"  {place}: {error}")
            continue
        out.flush()
        if file.expected.matches(Path(out.name)):
            return str(place)
        of = "" if size is None else f" of {size}"
        failures.append(f"  {place}: other bytes than were pinned ({out.tell()}{of} bytes)")
    raise QcError(
        f"{file.name}: not found. Tried:\n" + "\n".join(failures) + "\n"
        f"Put the file at {file.name} in a folder of your choice, name the folder in the environment variable "
        f"QC_MIRROR, and run this again. It must have {file.expected}. Earlier files are unchanged."
    )


def _copy(source: Path, out: BinaryIO, size: int | None) -> None:
    if not source.is_file():
        raise OSError("no such file")
    if size is not None and source.stat().st_size != size:
        raise OSError(f"{source.stat().st_size} bytes, {size} were pinned")
    with source.open("rb") as file:
        shutil.copyfileobj(file, out)


def prune(folder: Path, keep: Sequence[Path]) -> list[Path]:
    """Remove everything in `folder` besides `keep` and the folders above it; return what was removed."""
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path in keep:
            continue
        if path.is_dir() and any(path in kept.parents for kept in keep):
            removed += prune(path, keep)
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        removed.append(path)
    return removed
