"""What the fetch stage does with its references: the hub (a server on loopback), its cache, addresses, own files."""

import copy
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from urllib.parse import urlsplit

import pytest
import yaml
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils.sha import git_hash
from transformers import AutoModel

from qc.config.settings import Settings
from qc.errors import QcError
from qc.fetch.http import hub_headers
from qc.fetch.hub import read_licence
from qc.files import read_json
from stages.fetch import main
from tests.conftest import ROOT, label_lines, pin, serving, write_encoder

COMMIT, OTHER_COMMIT = "0123456789abcdef0123456789abcdef01234567", "f" * 40
CARD = "---\nlicense: apache-2.0\ntags: [x]\n---\n# An encoder\n"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
REFUSALS = {"absent": "RepoNotFound", "unknown": "RevisionNotFound"}
ENDED = {"NO_COLOR": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with the files of one encoder; the repository's name says how it behaves.

    As the real one does, it lists a repository, names a large file's SHA-256 and sends the client elsewhere for its
    bytes.
    """

    def log_message(self, *_):
        pass

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path  # the whole address, where the server is a proxy
        self.server.asked.append((path, self.headers.get("Authorization")))
        if path.startswith("/api/models/"):
            _, _, _, owner, name, _, revision = path.split("/")
            return self.list_files(f"{owner}/{name}", name, revision)
        if path == "/questions.label":
            return self.send(200, b"A:b c\n")
        _, _, name, _, *rest = path.split("/")
        file, body = rest[-1], self.server.files.get(rest[-1])
        if path.startswith("/cdn/"):
            return self.send(200, bytes(len(body)) if name == "wrong-weights" else body)
        if name == "gated" and self.headers.get("Authorization") != "Bearer hf_given":
            return self.send(401, X_Error_Code="GatedRepo")
        if body is None:
            return self.send(404, X_Error_Code="EntryNotFound")
        if file.endswith(".safetensors"):
            about = {"X_Linked_Size": len(body), "X_Linked_Etag": f'"{hashlib.sha256(body).hexdigest()}"'}
            elsewhere = self.server.url.replace("127.0.0.1", "localhost")
            return self.send(302, Location=f"{elsewhere}/cdn/{name}/x/{file}", X_Repo_Commit=COMMIT, **about)
        if name == "stalls" and file == "tokenizer.json":
            self.send(200, body[:10], **{"Content_Length": len(body)})
            self.wfile.flush()
            self.server.reached.set()
            return self.server.stop.wait(60)
        etag = f'"{git_hash(body)}"'
        body = bytes(len(body)) if name == "wrong-config" and file == "config.json" else body
        return self.send(200, body, ETag=etag, X_Repo_Commit=COMMIT)

    def list_files(self, repository, name, revision):
        if name in REFUSALS:
            return self.send(404, X_Error_Code=REFUSALS[name])
        if name == "page":
            return self.send(200, b"<html>")
        files = []
        for file, body in self.server.files.items():
            about = {"rfilename": file, "size": len(body), "blobId": git_hash(body)}
            if file.endswith(".safetensors"):
                about |= {"blobId": "0" * 40}  # of the pointer
                about["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
            if name == "unproven":
                del about["blobId"]
            files.append(about)
        about = {"id": repository, "sha": OTHER_COMMIT if name == "moved" else revision, "siblings": files}
        return self.send(200, json.dumps(about).encode())


@pytest.fixture
def hub(monkeypatch):
    with serving(Hub) as server:
        server.asked, server.files, server.stop, server.reached = [], {}, threading.Event(), threading.Event()
        point_to(monkeypatch, server.url)
        yield server
        server.stop.set()


def point_to(monkeypatch, endpoint):
    """Point this process to a hub, as HF_ENDPOINT does before `huggingface_hub` is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def place(tmp_path, hub, monkeypatch):
    """A folder with what the fetch stage reads, as the working directory, and a hub that has an encoder."""
    folder = tmp_path / "project"
    (folder / "data/own").mkdir(parents=True)
    (folder / "data/own/own.label").write_text("".join(f"{line}\n" for line in label_lines(20)))
    pinned = {"official.label": {**pin(folder / "data/own/own.label"), "licence": "none", "urls": []}}
    (folder / "data/sources.yaml").write_text(yaml.safe_dump({"labels": pinned, "encoders": {}}))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QC_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    hub.files = {name: f"{name} {'x' * 1000}".encode() for name in FILES} | {"README.md": CARD.encode()}
    return folder


def reference(name, commit=COMMIT):
    return f"hub:someone/{name}@{commit}"


def params(*encoders, **changes):
    """Content of a params.yaml that uses the first of these encoders."""
    content = copy.deepcopy(PARAMS)
    content["fetch"] |= {"train": "data/own/own.label", "encoders": list(encoders), **changes}
    name = encoders[0].partition("@")[0].rpartition("/")[-1]
    content["train_scratch"]["tokenizer"] = content["train_prefix"]["encoder"] = name
    content["train_distilbert"]["encoder"] = name
    return content


def fetch(*encoders, **changes):
    """Run the fetch stage in this process; what it printed."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        main(Settings.model_validate(params(*encoders, **changes)))
    return printed.getvalue()


def fetch_in_a_process(place, *encoders, status=0, **env):
    """Run the fetch stage as DVC does; what it printed."""
    (place / "params.yaml").write_text(yaml.safe_dump(params(*encoders)))
    done = subprocess.run(
        [sys.executable, "-m", "stages.fetch"], env={**os.environ, **ENDED, **env}, text=True, capture_output=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def write_files(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def pins(folder):
    return {path.relative_to(folder): pin(path) for path in folder.rglob("*") if path.is_file()}


def test_an_encoder_of_the_hub_is_fetched_verified_and_recorded(place, hub):
    output = fetch(reference("good"))
    folder = place / "data/encoders/good"
    assert read_json(folder / "source.json") == {
        "repository": "someone/good",
        "revision": COMMIT,
        "licence": "apache-2.0",
        "files": {name: pin(folder / name) for name in (*FILES, "README.md")},
    }
    assert {path.name for path in folder.iterdir()} == {*FILES, "README.md", "source.json"}
    for name, content in hub.files.items():
        assert (folder / name).read_bytes() == content
        assert f"data/encoders/good/{name}: {hub.url}/someone/good/resolve/{COMMIT}/{name}" in output


def test_the_hub_is_asked_once_then_the_record_beside_the_files_or_their_copy_in_the_mirror_is_enough(place, hub):
    fetch(reference("good"))
    before, folder, mirrored = list(hub.asked), place / "data/encoders/good", place.parent / "mirror/good"
    assert "data/encoders/good/model.safetensors: already here" in fetch(reference("good"))
    assert hub.asked == before
    (folder / "config.json").write_text("{}")
    assert f"config.json: {hub.url}" in fetch(reference("good"))
    assert (folder / "config.json").read_bytes() == hub.files["config.json"]
    shutil.move(folder, mirrored)
    before = list(hub.asked)
    assert f"good/model.safetensors: {mirrored}" in fetch(reference("good"))
    assert hub.asked == before


@pytest.mark.parametrize("where", ["data/encoders/good", "../mirror/good"])
@pytest.mark.parametrize("other", [reference("good", OTHER_COMMIT), reference("good").replace("someone", "other")])
def test_a_record_of_another_commit_or_repository_is_not_taken_for_this_one(place, hub, where, other):
    fetch(reference("good"))
    if where != "data/encoders/good":
        shutil.move("data/encoders/good", where)
    hub.files["config.json"] = b"changed"
    fetch(other)
    assert (place / "data/encoders/good/config.json").read_bytes() == b"changed"
    record = read_json(place / "data/encoders/good/source.json")
    assert f"hub:{record['repository']}@{record['revision']}" == other


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (lambda files: files | {"../../../params.yaml": files["config.json"]}, False),
        (lambda files: files | {"extra.bin": files["config.json"]}, False),
        (lambda files: {name: pin for name, pin in files.items() if name != "config.json"}, True),
        (lambda files: files | {"config.json": {"bytes": 1, "sha256": "x"}}, True),
        (lambda files: files | {"config.json": {"bytes": None, "sha256": "0" * 40}}, True),
        (lambda files: "none", True),
    ],
)
def test_a_record_names_no_file_but_an_encoders_own_and_a_damaged_one_is_not_taken(place, hub, change, asked):
    fetch(reference("good"))
    (place / "params.yaml").write_text("mine")
    shutil.move(place / "data/encoders/good", place.parent / "mirror/good")
    record = place.parent / "mirror/good/source.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"files": change(content["files"])}))
    before = len(hub.asked)
    fetch(reference("good"))
    assert any(path.startswith("/api/models/someone/good/") for path, _ in hub.asked[before:]) == asked
    assert read_json(place / "data/encoders/good/source.json")["files"] == content["files"]
    assert (place / "params.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"", None),
        (None, None),
        (b"---\nlicense: other\nlicense_name: odd-1.0\n---\n", "odd-1.0"),
        (b"---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        (b"# none\n", None),
        (b"---\nlicense: [\n---\n", None),
        (b"---\n- a list\n---\n", None),
        (b"\xff\xfe", None),
        (b"---\nlicense: " + b"[" * 800 + b"\n---\n", None),
    ],
)
def test_the_licence_is_what_the_model_card_states_if_there_is_one(tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card)
    assert read_licence(tmp_path / "README.md") == licence


def test_an_encoder_in_shards_is_fetched_whole_and_loads(place, hub):
    published = place.parent / "published"
    write_encoder(published)
    whole = AutoModel.from_pretrained(published)
    for path in (published / "model.safetensors", published / "source.json"):
        path.unlink()
    whole.save_pretrained(published, max_shard_size="5KB")
    shards = sorted(path.name for path in published.glob("model-*.safetensors"))
    assert len(shards) > 2
    hub.files = {path.name: path.read_bytes() for path in published.iterdir()}
    hub.files |= {"other.safetensors": b"x", "pytorch_model.bin": b"\x80\x04."}
    fetch(reference("sharded"))
    folder = place / "data/encoders/sharded"
    names = {"config.json", "tokenizer.json", "model.safetensors.index.json", *shards}
    assert read_json(folder / "source.json")["files"] == {name: pin(published / name) for name in names}
    loaded = AutoModel.from_pretrained(folder).state_dict()
    assert loaded.keys() == whole.state_dict().keys()
    assert all(loaded[name].equal(value) for name, value in whole.state_dict().items())
    asked = len(hub.asked)
    assert fetch(reference("sharded")).count("already here") == len(names) + 1  # and the questions
    assert len(hub.asked) == asked
    shutil.copytree(folder, "data/own/mine")
    fetch("data/own/mine")
    assert read_json(place / "data/encoders/mine/source.json")["files"].keys() == names
    del hub.files[shards[1]]
    with pytest.raises(QcError, match=f"someone/less@{COMMIT}: has no {shards[1]}; an encoder is "):
        fetch(reference("less"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gated", "gated: its owner gives access on the hub; ask for it there; if you have access, set HF_TOKEN"),
        ("absent", "the hub knows no such repository, or shows it only to some"),
        ("wrong-weights", "other bytes than were pinned"),
        ("wrong-config", "other bytes than were pinned"),
        ("unproven", "not the answer of a hub: it states no hashes"),
        ("moved", f"not the answer of a hub: about commit {OTHER_COMMIT}"),
        ("page", "not the answer of a hub"),
        ("unknown", "the hub knows no such commit of this repository"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_refused_and_what_was_there_stays(place, hub, name, told):
    fetch(reference("good"))
    before = pins(place / "data")
    with pytest.raises(QcError) as caught:
        fetch(reference(name))
    assert told in str(caught.value)
    assert f"{name}" in str(caught.value)
    assert pins(place / "data") == before


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (["tokenizer.json"], "has no tokenizer.json; an encoder is config.json, tokenizer.json and model.safetensors"),
        (["model.safetensors"], "has no model.safetensors"),
        (FILES, "has no config.json, model.safetensors, tokenizer.json"),
        (["pickle"], "its weights are there as a pickle alone (pytorch_model.bin), and reading a pickle runs code"),
    ],
)
def test_a_repository_or_folder_that_is_no_encoder_is_refused(place, hub, lacking, told):
    if lacking == ["pickle"]:
        lacking, hub.files["pytorch_model.bin"] = ["model.safetensors"], b"\x80\x04."
    hub.files = {name: content for name, content in hub.files.items() if name not in lacking}
    write_files(place / "data/own/mine", hub.files)
    for encoder in (reference("good"), "data/own/mine"):
        with pytest.raises(QcError) as caught:
            fetch(encoder)
        assert str(caught.value).startswith(f"{encoder}: {told}")
    assert not any(path.endswith(".bin") for path, _ in hub.asked)


def test_a_token_opens_a_gated_repository_and_goes_to_the_hub_alone(place, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    fetch(reference("gated"))
    assert {token for path, token in hub.asked if "/someone/" in path} == {"Bearer hf_given"}
    assert [token for path, token in hub.asked if path.startswith("/cdn/")] == [None]
    for path in (place / "data").rglob("*"):
        assert path.is_dir() or b"hf_given" not in path.read_bytes()


def test_a_token_is_never_sent_in_clear_over_a_network(place, hub, monkeypatch):
    """The server is the proxy of every http address, so that it sees what would go over the network."""
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    monkeypatch.setenv("http_proxy", hub.url)
    point_to(monkeypatch, "http://hub.test")
    fetch(reference("good"))
    point_to(monkeypatch, "https://hub.test")
    sha256 = hashlib.sha256(b"A:b c\n").hexdigest()
    shutil.rmtree("data/encoders")
    write_files(place / "data/own/mine", hub.files)
    fetch("data/own/mine", train="http://hub.test/questions.label", train_sha256=sha256)
    assert "/questions.label" in [path for path, _ in hub.asked]
    assert len(hub.asked) > 4
    assert {token for _, token in hub.asked} == {None}
    assert hub_headers("https://hub.test/questions.label")["authorization"] == "Bearer hf_given"
    for elsewhere in (
        "https://elsewhere.test/x",
        "https://hub.test.elsewhere/x",
        "https://elsewhere/https://hub.test/",
    ):
        assert hub_headers(elsewhere) == {}


def test_a_hub_that_is_not_there_is_named_with_what_to_do(place, monkeypatch):
    point_to(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(QcError) as caught:
        fetch(reference("good"))
    told = str(caught.value)
    assert told.startswith(f"{reference('good')}: cannot connect to 127.0.0.1:9: ")
    assert "HF_ENDPOINT names another hub" in told
    assert "QC_MIRROR" in told
    assert "\n" not in told


def test_a_hub_that_may_not_be_asked_is_not_asked(place, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_files(place / "data/own/mine", hub.files)
    with pytest.raises(QcError, match=r"questions\.label: HF_HUB_OFFLINE is set"):
        fetch("data/own/mine", train=f"{hub.url}/questions.label", train_sha256="0" * 64)
    assert hub.asked == []


def test_the_environment_names_the_hub_its_token_and_its_cache(place, hub):
    """As DVC runs it: the hub is asked at HF_ENDPOINT; later its cache, filled by its own client, is all there is."""
    (place / "data/sources.yaml").write_text(
        yaml.safe_dump({"labels": {}, "encoders": {"pinned": {
            "licence": "none", "repository": "someone/pinned", "revision": COMMIT,
            "files": {
                name: {"bytes": len(hub.files[name]), "sha256": hashlib.sha256(hub.files[name]).hexdigest()}
                for name in FILES
            },
        }}})
    )  # fmt: skip
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_given", "HF_HOME": str(place.parent / "hf")}
    output = fetch_in_a_process(place, "pinned", reference("gated"), **environment)
    assert f"pinned/model.safetensors: {hub.url}/someone/pinned/resolve/{COMMIT}/model.safetensors" in output
    assert read_json(place / "data/encoders/pinned/source.json")["licence"] == "none"
    assert not any("telemetry" in path for path, _ in hub.asked)
    assert not (place.parent / "hf").exists()  # nothing goes into the cache
    shutil.rmtree("data/encoders")
    for repository in ("pinned", "gated"):
        for name in hub.files:
            hf_hub_download(f"someone/{repository}", name, revision=COMMIT, token="hf_given")
    asked = len(hub.asked)
    environment["HF_HUB_OFFLINE"] = "1"
    output = fetch_in_a_process(place, "pinned", reference("gated"), **environment)
    assert output.count(f": {place.parent / 'hf/hub/models--someone--'}") == 7
    assert len(hub.asked) == asked
    told = fetch_in_a_process(place, reference("good"), status=1, **environment)
    assert told.startswith(f"error: {reference('good')}: HF_HUB_OFFLINE is set, and the hub's cache has no copy; ")


def test_a_fetch_that_is_stopped_leaves_no_half_file(place, hub):
    (place / "params.yaml").write_text(yaml.safe_dump(params(reference("stalls"))))
    environment = {**os.environ, **ENDED, "HF_ENDPOINT": hub.url}
    with subprocess.Popen([sys.executable, "-m", "stages.fetch"], env=environment, stderr=subprocess.PIPE) as process:
        assert hub.reached.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        assert b"Traceback" not in process.stderr.read()
    assert [path for path in place.rglob("*") if path.is_file() and "own" not in path.parts] == [
        *place.glob("params.yaml"), *place.glob("data/sources.yaml")
    ]  # fmt: skip


@pytest.fixture
def mine(place, hub):
    """The same, with an encoder of the user's own."""
    write_files(place / "data/own/mine", hub.files)
    return place


def test_an_address_is_fetched_once_by_its_hash_and_recorded_by_its_last_part(mine, hub):
    address, body = f"{hub.url}/questions.label?version=1", b"A:b c\n"
    with pytest.raises(QcError, match=r"other bytes than were pinned \(6 bytes, expected any number\)"):
        fetch("data/own/mine", train=address, train_sha256="0" * 64)
    sha256, before = hashlib.sha256(body).hexdigest(), len(hub.asked)
    output = fetch("data/own/mine", train=address, train_sha256=sha256)
    assert f"data/raw/train.label: {address}" in output
    assert "data/raw/train.label: already here" in fetch("data/own/mine", train=address, train_sha256=sha256)
    assert len(hub.asked) == before + 1
    about = {"file": "train.label", "name": "questions.label", "bytes": 6, "sha256": sha256}
    assert read_json(mine / "data/raw/files.json") == {"train": {**about, "licence": None, "columns": None}}


def test_a_question_file_that_is_gone_leaves_its_copy_and_another_of_its_name_is_refused(mine, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\nwho,a\n")
    assert f"{path}: DVC does not watch this file" in fetch("data/own/mine", train=str(path), test="data/own/own.label")
    record = (mine / "data/raw/files.json").read_text()
    assert json.loads(record)["train"]["name"] == "mine.csv"
    assert str(tmp_path) not in record
    path.unlink()
    (mine / "data/own/own.label").unlink()
    output = fetch("data/own/mine", train=str(path), test="data/own/own.label")
    assert f"warning: {path} is not here; data/raw/train.csv, its copy, stays" in output
    assert "warning: data/own/own.label is not here; data/raw/test.label, its copy, stays" in output
    assert (mine / "data/raw/files.json").read_text() == record
    named = {"train": str(path), "test": "data/own/own.label"}
    for key, other in (
        ("train", str(tmp_path / "other/mine.csv")),
        ("train", "mine.csv"),
        ("test", "data/own/x.label"),
    ):
        with pytest.raises(QcError, match=f"fetch.{key}: '{other}' .* no file is there"):
            fetch("data/own/mine", **named | {key: other})
    (mine / "data/raw/train.csv").write_text("text,label\nchanged,a\n")
    with pytest.raises(QcError, match=r"mine\.csv: No such file or directory"):
        fetch("data/own/mine", train=str(path))


def test_an_encoder_folder_that_is_gone_leaves_its_copy_and_another_of_its_name_is_refused(mine, tmp_path):
    folder = tmp_path / "elsewhere/mine"
    shutil.copytree(mine / "data/own/mine", folder)
    fetch(str(folder))
    before = pins(mine / "data/encoders")
    shutil.rmtree(folder)
    assert f"warning: {folder}/config.json is not here; data/encoders/mine/config.json, its copy" in fetch(str(folder))
    with pytest.raises(QcError, match="other/mine: has no config"):
        fetch(str(tmp_path / "other/mine"))
    assert pins(mine / "data/encoders") == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoders": ["absent"]}, "fetch.encoders: invalid value 'absent'; expected one of data/sources.yaml"),
        ({"train": "data/own/none.csv"}, "fetch.train: 'data/own/none.csv' is no label file of data/sources.yaml, "
         "and no file is there; expected official.label, or the path or address of a file of your own"),
        ({"test": "oficial.label"}, "fetch.test: 'oficial.label' is no label file of data/sources.yaml"),
        ({"test": "official.label", "test_sha256": "0" * 64}, f"fetch.test_sha256: invalid value '{'0' * 64}'; "
         "expected null, or what data/sources.yaml pins of official.label, "),
        ({"train_sha256": "0" * 64}, "data/own/own.label: SHA-256 "),
        ({"corrections": "data/own/no.csv"}, "fetch.corrections: 'data/own/no.csv': no such file; expected null, or "),
        ({"test": "official.label"}, "official.label: not found. Tried:\n  "),
    ],
)  # fmt: skip
def test_a_reference_that_cannot_serve_is_refused_and_what_was_there_stays(mine, changes, told):
    fetch("data/own/mine")
    before = pins(mine / "data")
    with pytest.raises(QcError) as caught:
        fetch(*changes.pop("encoders", ["data/own/mine"]), **changes)
    assert told in str(caught.value)
    assert pins(mine / "data") == before


def test_a_folder_elsewhere_is_taken_and_dvc_does_not_watch_it(place, hub, tmp_path):
    for folder in (tmp_path / "elsewhere", place / "data/own/mine"):
        write_files(folder, hub.files)
    output = fetch("data/own/mine", str(tmp_path / "elsewhere"))
    assert f"{tmp_path / 'elsewhere/config.json'}: DVC does not watch this file" in output
    assert "data/own/mine/config.json: DVC" not in output
    assert str(tmp_path) not in (place / "data/encoders/elsewhere/source.json").read_text()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_hub_on_loopback_is_given_the_token_in_clear(monkeypatch, host):
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    point_to(monkeypatch, f"http://{host}:8080")
    assert hub_headers(f"http://{host}:8080/questions.label")["authorization"] == "Bearer hf_given"
