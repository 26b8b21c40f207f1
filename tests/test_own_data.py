"""The whole pipeline on files of one's own: tables, objects and label files, and an encoder."""

import csv
import json

import pytest

from qc import load
from qc.files import read_csv, read_json
from tests.conftest import ENCODER_FILES, FILLERS, STAGES, label_lines, outputs, pin, write_encoder

TICKETS, MINE = "data/own/tickets.csv", "data/own/mine"
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
    """A copy of the finished project that went through the pipeline with the README's example and an own encoder."""
    project = finished.clone(tmp_path_factory.mktemp("tickets") / "project")
    use(project, TICKETS, text="message", label="topic")
    write_encoder(project.root / MINE, seed=7, family="distilbert")
    (project.root / MINE / "README.md").write_text("# no metadata\n")
    project.set("fetch.encoders", f"[tiny-bert, {MINE}]")
    project.set("train_distilbert.encoder", "mine")
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


def test_the_file_and_the_encoder_are_recorded_with_their_hashes(tickets):
    digest = pin(tickets.root / TICKETS)
    columns = {"text": "message", "label": "topic", "fine": None}
    about = {"file": "train.csv", "name": TICKETS, **digest, "licence": None, "columns": columns}
    assert read_json(tickets.root / "data/raw/files.json") == {"train": about}
    assert pin(tickets.root / "data/raw/train.csv") == digest
    record = read_json(tickets.root / "data/encoders/mine/source.json")
    assert record["repository"] is record["revision"] is record["licence"] is None
    assert record["files"] == {name: pin(tickets.root / MINE / name) for name in (*ENCODER_FILES, "README.md")}
    cards = [(tickets.root / f"reports/cards/{name}.md").read_text() for name in ("prefix", "distilbert")]
    assert f"`{TICKETS}`, " in cards[0]
    assert digest["sha256"] in cards[0]
    assert "`mine`, from a local folder" in cards[1]
    assert "- mine: not stated" in cards[1]


def test_a_change_of_a_file_reruns_what_reads_it_and_another_file_fetch_alone(tickets):
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
    write_encoder(tickets.root / MINE, seed=8, family="distilbert")
    assert tickets.repro("train_distilbert") == ["fetch", "tokenize", "train_distilbert"]


def write_objects(path, lines):
    """A JSON object a line from lines of a label file, with fine labels."""
    parts = [(line.partition(" ")[2], *line.partition(" ")[0].split(":")) for line in lines]
    path.write_text("".join(json.dumps({"q": text, "a": coarse, "b": fine}) + "\n" for text, coarse, fine in parts))


def test_train_and_test_may_be_of_different_formats(project):
    write_objects(project.root / "data/own/train.jsonl", label_lines(60))
    (project.root / "data/own/test.TSV").write_text("b\ta\tq\n0\tHUM\twho is it\n1\tLOC\twhere is it\n")
    use(project, "data/own/train.jsonl", text="q", label="a", fine="b")
    project.set("fetch.test", "data/own/test.TSV")
    project.repro("tokenize")
    assert [f"{coarse}:{fine} {text}" for coarse, fine, text in texts(project, "train")] == label_lines(60)
    assert texts(project, "test") == [("HUM", "", "who is it"), ("LOC", "", "where is it")]  # train has no such class


def test_labels_may_hold_colons_and_anything_else_and_a_fine_one_may_be_empty(project):
    labels = [("x:y", "z"), ("x", "y:z"), ("1.5 %", "ä|b"), ("x", "")] * 15
    rows = [(*label, f"the {FILLERS[n % 13]} {FILLERS[n // 13]}") for n, label in enumerate(labels)]
    with (project.root / "data/own/odd.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "fine", "text"), *rows])
    use(project, "data/own/odd.csv", fine="fine")
    project.repro("tokenize")
    assert texts(project, "train") == rows


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


def test_a_bad_file_is_refused_by_its_own_name_and_line_and_what_was_there_stays(restored):
    path = restored.root / "data/own/bad.csv"
    use(restored, "data/own/bad.csv")
    kept = outputs(restored)
    path.with_name("bat.csv").write_text("")
    assert "no file is there; did you mean data/own/bat.csv? expected " in restored.stage("fetch", status=1)
    path.with_name("bat.csv").unlink()
    cases = [
        ("text,label\nwho ?,a\n,b\n", "data/own/bad.csv:3: text is empty; 1 such line(s) to correct: 3"),
        ("text,topic\nwho ?,a\n", "data/own/bad.csv:1: no column 'label', which fetch.columns of"),
        ("text,label\nwho ?,a\nwhy ?,a\n", "the train file has only one class, a"),
    ]
    for content, told in cases:
        path.write_text(content)
        restored.stage("fetch")
        assert restored.stage("tokenize", status=1).startswith(f"error: {told}")
    restored.set("tokenize.include_fine_label", "true")
    path.write_text("text,label\nwho ?,a\nwhy ?,b\n")
    restored.stage("fetch")
    assert "include_fine_label: invalid value True" in restored.stage("tokenize", status=1)
    assert {name for name, pins in outputs(restored).items() if kept.get(name) != pins} <= {
        "data/own/bad.csv", "data/raw/train.csv", "data/raw/files.json"
    }  # fmt: skip
