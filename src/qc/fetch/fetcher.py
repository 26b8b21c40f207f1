"""Fetch outside files: find a copy, verify its hash, move it into place.

Notable:
- every place is only a candidate, the hash decides: where a file came from can never change a result
- all files are fetched before any is moved into place: if one fails, the earlier files stay
- of a download or a package nothing larger than the pinned size, or than `LARGEST`, is written
"""

import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Self

from huggingface_hub.utils.sha import git_hash
from tqdm import tqdm

from qc.config.sources import Package
from qc.errors import NO_ROOM, QcError, reason
from qc.fetch.http import Downloader, Unavailable
from qc.fetch.packages import Packages
from qc.files import file_sha256, new_file

LARGEST = 1 << 30  # bytes of a file of unknown size
GIT = 40  # hex digits of git's hash

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

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Compute the digest of a file."""
        return cls(path.stat().st_size, file_sha256(path))

    def matches(self, path: Path) -> bool:
        """Whether a file exists and has this size and hash."""
        if not path.is_file() or self.size not in (None, path.stat().st_size):
            return False
        return self.value == (git_hash(path.read_bytes()) if len(self.value) == GIT else file_sha256(path))


@dataclass(frozen=True)
class FileRequest:
    """A file to fetch.

    Attributes:
        target: Where it goes.
        expected: Its size and hash.
        name: Its path below the folder of QC_MIRROR.
        places: Where else it may be, tried in this order.
    """

    target: Path
    expected: Digest
    name: str
    places: Sequence[Place]

    @property
    def own(self) -> Path | None:
        """The user's own file, which is the only place; None for a file that is published."""
        return self.places[0] if len(self.places) == 1 and isinstance(self.places[0], Path) else None

    def pin(self) -> dict[str, int | str]:
        """Compute size and SHA-256 of the file, once it is there."""
        digest = Digest.of_file(self.target)
        return {"bytes": digest.size, "sha256": digest.value}


def fetch(requests: Sequence[FileRequest], downloader: Downloader, mirror: Path | None = None) -> dict[Path, str]:
    """Fetch every requested file; files that match already are left alone.

    Args:
        mirror: The folder of QC_MIRROR, the first place of every file.

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
            places = [*([mirror / file.name] if mirror else []), *file.places]
            temporary = stack.enter_context(new_file(file.target))  # moved into place when all are there
            with temporary.open("wb") as out:
                origins[file.target] = _find(file, places, out, downloader, packages)
    return origins


def _find(file: FileRequest, places: Sequence[Place], out: BinaryIO, downloader: Downloader, packages: Packages) -> str:
    """Write the first matching candidate to `out`; return its place.

    Raises:
        QcError: No candidate matches.
        OSError: There is no room for it.
    """
    failures, size = [], file.expected.size
    limit = LARGEST if size is None else size
    for place in places:
        out.seek(0)
        out.truncate()
        try:
            if isinstance(place, Path):
                if place.exists() and (not place.is_file() or place.stat().st_size > limit):
                    raise Unavailable(f"no file of at most {limit} bytes")
                with place.open("rb") as copy:
                    shutil.copyfileobj(copy, out)
            elif isinstance(place, str):
                downloader.download(place, out, limit, size or 0)
            else:
                packages.copy(place, file.target.name, out, limit)
            out.flush()
        except Unavailable as error:
            failures.append(f"  {place}: {error}")
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            failures.append(f"  {place}: {reason(error)}")
        else:
            if file.expected.matches(Path(out.name)):
                return str(place)
            failures.append(
                f"  {place}: other bytes than were pinned ({out.tell()} bytes, expected {size or 'any number'})"
            )
    kind = "git's hash" if len(file.expected.value) == GIT else "SHA-256"
    raise QcError(
        f"{file.name}: not found. Tried:\n" + "\n".join(failures) + "\n"
        f"Put the file at {file.name} in a folder of your choice, name the folder in the environment variable "
        f"QC_MIRROR, and run this again. It must have {kind} {file.expected.value}. Earlier files are unchanged."
    )


def prune(folder: Path, keep: Collection[Path]) -> list[Path]:
    """Remove everything in `folder` besides `keep` and the folders above it; return what was removed."""
    removed = []
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds comes before it
        is_folder = path.is_dir() and not path.is_symlink()
        if path in keep or (is_folder and any(path.iterdir())):
            continue
        path.rmdir() if is_folder else path.unlink()
        removed.append(path)
    return removed
