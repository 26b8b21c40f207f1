"""Encoders from the hub, with the hub's own client against a server on loopback, and from folders."""

import hashlib
import http.server
import json
import shutil

import pytest
from huggingface_hub.utils.sha import git_hash

from qc.fetch.hub import read_licence
from qc.files import read_json
from qc.questions.parquet import read_table
from tests.conftest import ROOT, VOCABULARY, pin, serving, write_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINILM = ROOT / "data/encoders/all-MiniLM-L6-v2"
CARD = "---\nlicense: apache-2.0\ntags: [x]\n---\n# An encoder\n"
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with the files of one encoder; the repository's name says how it behaves.

    As the real one does, it names a large file's SHA-256 and sends the client elsewhere for its bytes.
    """

    def log_message(self, *_):
        pass

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        sent = (self.headers.get(name) for name in ("Range", "Authorization"))
        self.server.asked.append((self.command, self.path, *sent))
        _, owner, name, *rest = self.path.split("/")
        if owner == "cdn":
            return self.send_large(self.path.rsplit("/", 1)[-1], name)
        if name == "gated" and self.headers.get("Authorization") != "Bearer hf_given":
            return self.send(401, X_Error_Code="GatedRepo")
        if name == "private":
            return self.send(401)
        if name == "absent":
            return self.send(404, X_Error_Code="RepoNotFound")
        if name == "busy" and len(self.server.asked) < 3:
            return self.send(503)
        if rest[1] != COMMIT:
            return self.send(404, X_Error_Code="RevisionNotFound")
        file = rest[-1]
        if file not in self.server.files or (name == "without-tokenizer" and file == "tokenizer.json"):
            return self.send(404, X_Error_Code="EntryNotFound")
        body = self.server.files[file]
        if name == "unproven":
            return self.send(200, body, X_Repo_Commit=COMMIT)
        if file.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(body).hexdigest()
            place = {"X_Linked_Size": len(body), "X_Linked_Etag": f'"{digest}"', "X_Repo_Commit": COMMIT}
            elsewhere = self.server.url.replace("127.0.0.1", "localhost")
            return self.send(302, Location=f"{elsewhere}/cdn/{name}/{file}", **place)
        return self.send(200, body, ETag=f'"{git_hash(body)}"', X_Repo_Commit=COMMIT)

    def send_large(self, file, name):
        body = self.server.files[file]
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        place = {"Content_Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
        if name == "wrong":
            body = bytes(len(body))
        rest = body[first:]
        sent = rest[: len(body) // 3 + 1] if name == "interrupted" else rest
        return self.send(206 if first else 200, sent, **{"Content-Length": len(rest)}, **place)


@pytest.fixture
def hub():
    with serving(Hub) as server:
        server.asked, server.files = [], {}
        yield server


@pytest.fixture
def published(project, hub):
    """The project, and a hub that has an encoder with its vocabulary; the hub's files can be changed."""
    write_encoder(project.root.parent / "published", seed=5)
    hub.files = {name: (project.root.parent / "published" / name).read_bytes() for name in FILES}
    hub.files["README.md"] = CARD.encode()
    return project


def reference(name):
    return f"hub:someone/{name}@{COMMIT}"


def fetch(project, hub, name, status=0, **env):
    project.set("fetch.encoders", f"[tiny-bert, '{reference(name)}']")
    return project.stage("fetch", status=status, HF_ENDPOINT=hub.url, **env)


def weights_asked(hub):
    """The part that was asked for in each request for the weights' bytes."""
    return [place for command, path, place, _ in hub.asked if command == "GET" and path.startswith("/cdn/")]


def test_an_encoder_of_the_hub_is_fetched_proven_and_recorded(published, hub):
    output = fetch(published, hub, "good")
    folder = published.root / "data/encoders/good"
    assert {path.name for path in folder.iterdir()} == {*FILES, "README.md", "source.json"}
    assert read_json(folder / "source.json") == {
        "repository": "someone/good",
        "revision": COMMIT,
        "licence": "apache-2.0",
        "files": {name: pin(folder / name) for name in (*FILES, "README.md")},
    }
    for name, content in hub.files.items():
        assert (folder / name).read_bytes() == content
        assert f"data/encoders/good/{name}: {hub.url}/someone/good/resolve/{COMMIT}/{name}" in output


def test_an_encoder_that_is_there_needs_no_hub(published, hub):
    fetch(published, hub, "good")
    before = list(hub.asked)
    assert "data/encoders/good/model.safetensors: already here" in fetch(published, hub, "good")
    assert hub.asked == before
    (published.root / "data/encoders/good/config.json").write_text("{}")
    assert f"config.json: {hub.url}" in fetch(published, hub, "good")
    assert (published.root / "data/encoders/good/config.json").read_bytes() == hub.files["config.json"]


def test_a_copy_of_its_folder_in_the_mirror_stands_in_for_the_hub(published, hub):
    fetch(published, hub, "good")
    shutil.move(published.root / "data/encoders/good", published.mirror / "good")
    before = list(hub.asked)
    assert "good/model.safetensors: QC_MIRROR" in fetch(published, hub, "good")
    assert hub.asked == before


def test_a_record_that_names_files_elsewhere_is_not_followed(published, hub):
    fetch(published, hub, "good")
    shutil.move(published.root / "data/encoders/good", published.mirror / "good")
    record = published.mirror / "good/source.json"
    content = json.loads(record.read_text())
    content["files"]["../../../params.yaml"] = content["files"]["config.json"]
    record.write_text(json.dumps(content))
    params = published.params.read_bytes()
    fetch(published, hub, "good")
    assert weights_asked(hub)
    assert published.params.read_bytes() == params
    assert "../../../params.yaml" not in read_json(published.root / "data/encoders/good/source.json")["files"]


def test_a_download_that_is_interrupted_goes_on_where_it_ended(published, hub):
    fetch(published, hub, "interrupted")
    size = len(hub.files["model.safetensors"])
    part = size // 3 + 1
    assert weights_asked(hub) == [None, f"bytes={part}-", f"bytes={2 * part}-"]
    weights = published.root / "data/encoders/interrupted/model.safetensors"
    assert weights.read_bytes() == hub.files["model.safetensors"]


def test_a_token_opens_a_gated_repository_and_goes_to_the_hub_alone(published, hub):
    fetch(published, hub, "gated", HF_TOKEN="hf_given")
    assert {token for _, path, _, token in hub.asked if path.startswith("/someone")} == {"Bearer hf_given"}
    assert {token for _, path, _, token in hub.asked if path.startswith("/cdn")} == {None}


def test_a_busy_hub_is_asked_again(published, hub):
    fetch(published, hub, "busy")
    assert (published.root / "data/encoders/busy/source.json").is_file()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gated", "gated: its owner gives access on the hub; ask for it there, then name your token in HF_TOKEN"),
        ("private", "status 401"),
        ("absent", "the hub knows no such repository, or shows it only to some"),
        ("without-tokenizer", "has no tokenizer.json; an encoder is config.json, model.safetensors, tokenizer.json"),
        ("wrong", "other bytes than were pinned"),
        ("unproven", "the hub states no size and hash"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_refused_and_what_was_there_stays(published, hub, name, told):
    published.stage("fetch")
    before = {path: pin(path) for path in (published.root / "data").rglob("*") if path.is_file()}
    output = fetch(published, hub, name, status=1)
    assert output.startswith("error: ")
    assert told in output
    assert f"someone/{name}" in output
    assert "Traceback" not in output
    assert {path: pin(path) for path in (published.root / "data").rglob("*") if path.is_file()} == before


def test_pickled_weights_alone_are_refused_with_the_reason(published, hub):
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = b"\x80\x04."
    output = fetch(published, hub, "pickled", status=1)
    assert "a pickle alone (pytorch_model.bin), and reading a pickle runs code of its author" in output
    assert not any(command == "GET" and path.endswith(".bin") for command, path, *_ in hub.asked)


def test_weights_in_several_files_are_refused(published, hub):
    del hub.files["model.safetensors"]
    hub.files["model.safetensors.index.json"] = b"{}"
    assert "its weights are in several files" in fetch(published, hub, "sharded", status=1)


def test_a_hub_that_is_not_there_is_named(published):
    published.set("fetch.encoders", f"[tiny-bert, '{reference('good')}']")
    output = published.stage("fetch", status=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub cannot be reached" in output
    assert "http://127.0.0.1:9/someone/good" in output


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", f"@{COMMIT[:7]}", f"@{COMMIT}0"])
def test_a_revision_that_is_no_commit_is_refused(published, revision):
    published.set("fetch.encoders", f"[tiny-bert, 'hub:someone/good{revision}']")
    output = published.stage("fetch", status=1)
    assert f"invalid value 'hub:someone/good{revision}'; expected hub:owner/name@revision" in output
    assert "what a branch or a tag names can change" in output


def test_a_commit_that_the_hub_does_not_know_is_told(published, hub):
    published.set("fetch.encoders", f"[tiny-bert, 'hub:someone/good@{'f' * 40}']")
    assert "knows no such commit" in published.stage("fetch", status=1, HF_ENDPOINT=hub.url)


def test_an_encoder_of_the_hub_is_trained_on_under_its_name(published, hub):
    published.set("fetch.encoders", f"[tiny-bert, '{reference('good')}']")
    published.set("train_prefix.encoder", "good")
    published.run("dvc", "repro", "fetch", HF_ENDPOINT=hub.url)
    published.repro()
    card = (published.root / "reports/cards/prefix.md").read_text()
    assert f"`good`, from `someone/good` at `{COMMIT}`" in card
    assert "- good: apache-2.0" in card
    published.set("train_prefix.encoder", "best")
    assert "expected an encoder of fetch.encoders: tiny-bert, good" in published.stage("train_prefix", status=1)


def test_the_real_encoder_comes_from_the_hub_byte_for_byte(published, hub):
    """Where `make run` has brought it: the very files that the hub has, at the commit that is pinned."""
    if not MINILM.is_dir():
        pytest.skip("data/encoders/all-MiniLM-L6-v2 is not here; make run")
    hub.files = {name: (MINILM / name).read_bytes() for name in FILES}
    fetch(published, hub, "interrupted")
    assert len(weights_asked(hub)) == 3
    for name in FILES:
        assert pin(published.root / "data/encoders/interrupted" / name) == pin(MINILM / name)


def test_a_folder_is_an_encoder_too(published):
    folder = published.root / "data/own/mine"
    write_encoder(folder, seed=7, family="distilbert")
    (folder / "README.md").write_text("# no metadata\n")
    published.set("fetch.encoders", "[tiny-bert, data/own/mine]")
    published.set("train_distilbert.encoder", "mine")
    published.repro()
    record = read_json(published.root / "data/encoders/mine/source.json")
    assert record["repository"] is record["revision"] is record["licence"] is None
    assert record["files"] == {name: pin(folder / name) for name in (*FILES, "README.md")}
    card = (published.root / "reports/cards/distilbert.md").read_text()
    assert "`mine`, from a local folder" in card
    assert "- mine: not stated" in card
    write_encoder(folder, seed=8, family="distilbert")
    assert published.repro("train_distilbert") == ["fetch", "tokenize", "train_distilbert"]


def test_a_folder_elsewhere_is_taken_with_a_word_on_what_dvc_sees(published, tmp_path):
    write_encoder(tmp_path / "elsewhere", seed=7)
    published.set("fetch.encoders", f"[tiny-bert, {tmp_path / 'elsewhere'}]")
    output = published.stage("fetch")
    assert f"{tmp_path / 'elsewhere/config.json'}: DVC does not watch this file" in output
    assert str(tmp_path) not in (published.root / "data/encoders/elsewhere/source.json").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.safetensors", "data/own/mine: has no model.safetensors"),
        ("pickle", "data/own/mine: its weights are there as a pickle alone (pytorch_model.bin)"),
        ("all", "data/own/mine: has no config.json, model.safetensors, tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_encoder_is_refused(published, change, told):
    folder = published.root / "data/own/mine"
    write_encoder(folder)
    for name in FILES if change == "all" else ["model.safetensors"]:
        (folder / name).unlink()
    if change == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    published.set("fetch.encoders", "[tiny-bert, data/own/mine]")
    assert told in published.stage("fetch", status=1)


@pytest.mark.parametrize(
    ("encoders", "told"),
    [
        (f"['{reference('tiny-bert')}', tiny-bert]", "each encoder named once, and no two called tiny-bert"),
        ("[tiny-bert, data/own/mine, data/own/../mine]", "no two called mine"),
        ("[tiny-bert, data/own/..]", "the path of a folder whose name begins with a letter or digit"),
        ("[tiny-bert, absent]", "invalid value 'absent'; expected one of data/sources.yaml"),
    ],
)
def test_a_name_that_cannot_serve_is_refused(published, encoders, told):
    published.set("fetch.encoders", encoders)
    assert told in published.stage("fetch", status=1)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "apache-2.0"),
        ("---\nlicense: other\nlicense_name: odd-1.0\n---\n", "odd-1.0"),
        ("# none\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- a list\n---\n", None),
    ],
)
def test_the_licence_is_what_the_model_card_states(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path / "README.md") == licence
    assert read_licence(tmp_path / "absent.md") is None


def test_a_cased_tokenizer_keeps_its_case(project, tmp_path):
    """What a tokenizer does with case is in its own file, whatever else its folder lacks."""
    folder = project.root / "data/own/cased"
    write_encoder(folder, vocabulary=[*VOCABULARY, "The", "King"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    project.set("fetch.encoders", "[data/own/cased]")
    for key in ("train_scratch.tokenizer", "train_prefix.encoder", "train_distilbert.encoder"):
        project.set(key, "cased")
    (project.root / "data/own/cased.label").write_text("A:x The King\nB:y the king\n" * 20)
    project.set("fetch.train", "data/own/cased.label")
    project.repro("tokenize")
    ids = read_table(project.root / "data/tokenized/cased/input_ids.parquet").to_pydict()["input_ids"]
    names = len(VOCABULARY)
    assert [row[1:-1] for row in ids[:2]] == [[names, names + 1], [VOCABULARY.index("the"), VOCABULARY.index("king")]]
