"""The whole pipeline on files of one's own: tables, objects and label files, by path and by address."""

import csv
import http.server
import json
import shutil

import pytest

from qc import load
from qc.files import read_csv, read_json
from tests.conftest import FILLERS, STAGES, label_lines, outputs, pin, serving

TICKETS = "data/own/tickets.csv"
CLASS_NAMES = [("who", "$\\alpha$"), ("where", "=1+1"), ("why", "a_{b}^$")]


def use(project, train, **columns):
    """Name a file under fetch.train, and its columns."""
    project.set("fetch.train", train)
    names = {"text": "text", "label": "label", "fine": "null", **columns}
    project.set("fetch.columns", json.dumps(names).replace('"null"', "null"))


def texts(project, partition):
    rows = (row for row in project.questions() if row["official"] == (partition == "test"))
    return [(row["coarse"], row["fine"], row["text"]) for row in rows]


@pytest.fixture(scope="module")
def tickets(finished, tmp_path_factory):
    """A copy of the finished project that went through the pipeline with the example of the README."""
    project = finished.clone(tmp_path_factory.mktemp("tickets") / "project")
    use(project, TICKETS, text="message", label="topic")
    assert project.repro() == STAGES
    return project


def test_the_example_goes_through_the_whole_pipeline(tickets):
    topics = ["account", "billing", "delivery", "product"]
    figures, scores = read_json(tickets.root / "reports/data.json"), read_json(tickets.root / "reports/test.json")
    assert figures["size"] == {"train": 64, "valid": 8, "test": 8}
    assert list(figures["classes"]["test"]) == topics
    assert scores["n_test"] == 8
    assert all(list(scores[name]["f1"]) == topics for name in ("scratch", "prefix", "distilbert"))
    assert {row["label"] for row in read_csv(tickets.root / "metrics/predictions.csv")} == set(topics)
    with (tickets.root / TICKETS).open(newline="") as file:
        assert texts(tickets, "train") == [(row["topic"], "", row["message"]) for row in csv.DictReader(file)]
    for name in ("prefix", "distilbert"):  # without fine labels there is no second task
        assert read_json(tickets.root / f"models/{name}/config.json")["sizes"]["coarse_of"] == []
    assert load(tickets.root / "models/distilbert").predict(["Where is it ?"])[0].label in topics
    assert tickets.repro() == []


def test_the_file_and_its_hash_are_recorded(tickets):
    found = pin(tickets.root / TICKETS)
    columns = {"text": "message", "label": "topic", "fine": None}
    about = {"file": "train.csv", "name": TICKETS, **found, "licence": None, "columns": columns}
    assert read_json(tickets.root / "data/raw/files.json") == {"train": about}
    assert pin(tickets.root / "data/raw/train.csv") == found
    card = (tickets.root / "reports/cards/prefix.md").read_text()
    assert f"`{TICKETS}`, " in card
    assert found["sha256"] in card


def test_a_change_of_the_file_reruns_the_pipeline_and_another_file_fetch_alone(tickets):
    path = tickets.root / TICKETS
    before = path.read_bytes()
    path.write_bytes(before + b"Is it late ?,delivery\n")
    try:
        assert tickets.repro("split") == ["fetch", "tokenize", "split"]
        assert texts(tickets, "train")[-1] == ("delivery", "", "Is it late ?")
    finally:
        path.write_bytes(before)
        tickets.repro()
    path.with_name("other.csv").write_text("text,label\n")
    assert tickets.repro() == ["fetch"]


def write_objects(path, lines):
    """A JSON object a line from lines of a label file, with fine labels."""
    parts = [(line.partition(" ")[2], *line.partition(" ")[0].split(":")) for line in lines]
    path.write_text("".join(json.dumps({"q": text, "a": coarse, "b": fine}) + "\n" for text, coarse, fine in parts))


def test_train_and_test_may_be_of_different_formats(project):
    write_objects(project.root / "data/own/train.jsonl", label_lines(60))
    (project.root / "data/own/test.TSV").write_text("b\ta\tq\n0\tHUM\twho is it\n1\tLOC\twhere is it\n")
    use(project, "data/own/train.jsonl", text="q", label="a", fine="b")
    project.set("fetch.test", "data/own/test.TSV")
    project.repro()
    assert [f"{coarse}:{fine} {text}" for coarse, fine, text in texts(project, "train")] == label_lines(60)
    assert texts(project, "test") == [("HUM", "", "who is it"), ("LOC", "", "where is it")]  # train has no such class
    assert len(read_json(project.root / "models/prefix/config.json")["labels"]["fine_classes"]) == 10
    assert "official test questions" in (project.root / "reports/cards/prefix.md").read_text()


def test_labels_may_hold_colons_and_anything_else_and_a_fine_one_may_be_empty(project):
    labels = [("x:y", "z"), ("x", "y:z"), ("1.5 %", "ä|b"), ("x", "")] * 15
    rows = [(*label, f"the {FILLERS[n % 13]} {FILLERS[n // 13]}") for n, label in enumerate(labels)]
    with (project.root / "data/own/odd.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "fine", "text"), *rows])
    use(project, "data/own/odd.csv", fine="fine")
    project.repro("train_distilbert")
    config = read_json(project.root / "models/distilbert/config.json")
    assert config["labels"]["fine_classes"] == [["1.5 %", "ä|b"], ["x", "y:z"], ["x:y", "z"]]
    assert config["sizes"]["coarse_of"] == [0, 1, 2]


@pytest.mark.soak
def test_whatever_is_accepted_can_be_read_by_all_that_comes_after(project):
    """A text longer than DVC's reader of CSV takes, a lone CR, formulas, dollar signs: trained on, judged, reported."""
    rows = [(f"{FILLERS[n % 11]} {FILLERS[n // 11]} {name}", label) for n in range(30) for name, label in CLASS_NAMES]
    long = " ".join(["dog"] * 35_000)
    rows += [(f"{long} {FILLERS[n]} {name}", label) for n in range(4) for name, label in CLASS_NAMES]
    rows += [(f"{name}\r{FILLERS[n]}\r\n", label) for n in range(9) for name, label in CLASS_NAMES]
    path = project.root / "data/own/odd.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    use(project, "data/own/odd.jsonl")
    project.set("split.test", 0.3)
    assert project.repro() == STAGES
    predictions = read_csv(project.root / "metrics/predictions.csv")
    assert any("characters, SHA-256 " in row["text"] for row in predictions)
    assert any("\r" in row["text"] for row in predictions)
    assert max(len(row["text"]) for row in predictions) < 11_000
    assert {row["label"] for row in predictions} == {label for _, label in CLASS_NAMES}
    for file in ("f1", "mistakes"):
        cells = [cell for row in read_csv(project.root / f"plots/{file}.csv") for cell in row.values()]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
        assert any(cell.startswith("'=") for cell in cells)
    project.commit("odd data")
    assert "metrics gate on test: holds" in project.run("qc", "check", "--base", "HEAD", "--split", "test")
    project.run("dvc", "plots", "show")
    project.run("qc", "report")
    page = (project.root / "report/index.html").read_text()
    assert "$\\alpha$" in page
    assert "&#39;=HYPERLINK" not in page.partition("The most confident mistakes")[2].partition("Audit")[0]


class Files(http.server.BaseHTTPRequestHandler):
    """Serves one file at any path."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)


def test_an_address_is_fetched_once_and_needs_its_hash(project):
    body = (project.root / TICKETS).read_bytes()
    with serving(Files) as server:
        server.body = body
        use(project, f"{server.url}/a/tickets.csv?version=1", text="message", label="topic")
        told = "fetch.train_sha256: invalid value None; expected the SHA-256 of what train names"
        assert told in project.stage("fetch", status=1)
        project.set("fetch.train_sha256", f"'{'0' * 64}'")
        assert f"other bytes than were pinned ({len(body)} bytes)" in project.stage("fetch", status=1)
        project.set("fetch.train_sha256", pin(project.root / TICKETS)["sha256"])
        assert "data/raw/train.csv: http://127.0.0.1" in project.stage("fetch")
    assert "data/raw/train.csv: already here" in project.stage("fetch")
    assert (project.root / "data/raw/train.csv").read_bytes() == body
    assert read_json(project.root / "data/raw/files.json")["train"]["name"] == "tickets.csv"


def test_a_path_elsewhere_is_taken_and_its_folder_is_nowhere_recorded(project, tmp_path):
    path = tmp_path / "mine.label"
    path.write_text("".join(f"{line}\n" for line in label_lines(60)))
    use(project, str(path))
    assert f"{path}: DVC does not watch this file" in project.stage("fetch")
    assert read_json(project.root / "data/raw/files.json")["train"]["name"] == "mine.label"
    path.unlink()
    project.set("seed", 7)  # fetch reads all of params.yaml, and runs again
    kept = outputs(project)
    assert "warning: fetch.train: mine.label is not here; data/raw/train.label, its copy, stays" in project.stage(
        "fetch"
    )
    assert outputs(project) == kept
    assert str(path) not in (project.root / "data/raw/files.json").read_text()
    project.set("fetch.train", str(tmp_path / "other" / path.name))  # another file of this name
    assert "no file is there" in project.stage("fetch", status=1)
    project.set("fetch.train", str(path))
    (project.root / "data/raw/train.label").write_text("A:b changed\n")
    assert "no file is there" in project.stage("fetch", status=1)


def test_an_encoder_folder_that_is_gone_leaves_its_copy_and_another_of_its_name_is_refused(project, tmp_path):
    folder = tmp_path / "tiny-own"
    shutil.copytree(project.mirror / "tiny-bert", folder)
    project.set("fetch.encoders", f"[{folder}]")
    for key in ("train_scratch.tokenizer", "train_prefix.encoder", "train_distilbert.encoder"):
        project.set(key, "tiny-own")
    project.stage("fetch")
    before = outputs(project)
    shutil.rmtree(folder)
    said = project.stage("fetch")
    assert f"warning: fetch.encoders: {folder} is not here; data/encoders/tiny-own, its copy, stays" in said
    assert outputs(project) == before
    project.set("fetch.encoders", f"[{tmp_path}/elsewhere/tiny-own]")
    assert "has no config.json" in project.stage("fetch", status=1)
    assert outputs(project) == before


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("fetch.train", "data/own/none.csv", "fetch.train: 'data/own/none.csv' is no label file of data/sources.yaml, "
         "and no file is there; expected "),
        ("fetch.train", "tiny.lable", "fetch.train: invalid value 'tiny.lable'; expected a label file of"),
        ("fetch.train", "tinny.label", "fetch.train: 'tinny.label' is no label file of data/sources.yaml"),
        ("fetch.train", "ftp://x/y.csv", "expected an address that begins with http:// or https://"),
        ("fetch.train_sha256", "0" * 64, "expected null, or what data/sources.yaml pins of tiny.label"),
        ("fetch.train_sha256", "abc", "fetch.train_sha256: invalid value 'abc'"),
        ("fetch.columns", "{text: a, label: a, fine: null}", "invalid value 'a'; expected three different columns"),
        ("fetch.columns", "{text: a}", "fetch.columns.label: missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_refused_and_what_was_there_stays(restored, key, value, told):
    before = {path: pin(path) for path in (restored.root / "data").rglob("*") if path.is_file()}
    restored.set(key, f"'{value}'" if key != "fetch.columns" else value)
    output = restored.stage("fetch", status=1)
    assert told in output
    assert "Traceback" not in output
    assert {path: pin(path) for path in (restored.root / "data").rglob("*") if path.is_file()} == before


def test_a_file_that_is_not_what_it_must_be_is_refused(restored):
    use(restored, TICKETS, text="message", label="topic")
    restored.set("fetch.train_sha256", f"'{'0' * 64}'")
    found = pin(restored.root / TICKETS)["sha256"]
    assert f"{TICKETS}: SHA-256 {found}, but params.yaml has fetch.train_sha256: 000" in restored.stage(
        "fetch", status=1
    )


def test_an_official_test_that_leaves_a_class_nothing_to_learn_from_is_refused(restored):
    lines = [line for line in label_lines(100) if line.startswith("HUM:")]
    (restored.root / "data/own/test.label").write_text("".join(f"{line}\n" for line in lines))
    (restored.root / "data/own/train.label").write_text("".join(f"{line}\n" for line in label_lines(100)))
    restored.set("fetch.train", "data/own/train.label")
    restored.set("fetch.test", "data/own/test.label")
    restored.stage("fetch")
    assert "data/own/train.label: read as ASCII" in restored.stage("tokenize")
    before = outputs(restored)
    told = restored.stage("split", status=1)
    assert told.startswith("error: 20 of the 100 questions of fetch.train are also in fetch.test")
    assert "class 'HUM' (0 of 20)" in told
    assert outputs(restored) == before


def test_questions_that_a_model_cannot_tell_apart_are_in_one_split(project):
    """Accents and spaces that the tokenizer drops: the texts differ, the token ids do not."""
    lines = [f"{line} house" for line in label_lines(60)]
    parted = [line.partition(" ") for line in lines]
    twins = [
        f"{label} {text.replace('house', 'ho' + chr(0xFB) + 'se').replace(' ?', '?')}" for label, _, text in parted
    ]
    path = project.root / "data/own/twins.label"
    path.write_text("".join(f"{line}\n" for line in [*lines, *twins]), encoding="utf-8")
    use(project, str(path.relative_to(project.root)))
    assert "data/own/twins.label: read as UTF-8" in project.run("dvc", "repro", "split")
    figures = read_json(project.root / "reports/data.json")
    assert sum(figures["by_ids"]["duplicates"].values()) >= 60
    assert set(figures["by_ids"]["overlap"].values()) == {0}
    assert sum(figures["duplicates"].values()) < 30


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\nwho ?,a\n,b\n", "data/own/bad.csv:3: text is empty; 1 such line(s) to correct: 3"),
        ("text,topic\nwho ?,a\n", "data/own/bad.csv:1: no column 'label', which fetch.columns of"),
        ("text,label\nwho ?,a\nwhy ?,a\n", "the train file has only one class, a"),
    ],
)
def test_a_bad_file_is_refused_by_its_own_name_and_line(restored, content, told):
    (restored.root / "data/own/bad.csv").write_text(content)
    use(restored, "data/own/bad.csv")
    restored.stage("fetch")
    output = restored.stage("tokenize", status=1)
    assert output.startswith(f"error: {told}")


def test_the_fine_label_cannot_stand_before_questions_that_have_none(restored):
    use(restored, TICKETS, text="message", label="topic")
    restored.set("tokenize.include_fine_label", "true")
    restored.stage("fetch")
    assert "include_fine_label: invalid value True" in restored.stage("tokenize", status=1)
