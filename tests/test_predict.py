"""`qc predict` and the predictor behind it, on the models of a finished project."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qc import load
from qc.__main__ import main
from qc.commands.predict import as_text
from qc.errors import QcError
from qc.files import read_csv, read_json, write_json
from qc.inference.logits import predict
from qc.inference.model_folder import read_config, write_config
from qc.inference.predictor import Prediction, Predictor
from tests.conftest import CLASSES, VOCABULARY, write_record
from tests.faults import make_folder

MODELS = ("scratch", "prefix", "distilbert")


@pytest.fixture
def copied(here, tmp_path, monkeypatch):
    """A copy of its models and encoders that may be broken, as the working directory."""
    for name in ("models", "reports", "data/encoders"):
        shutil.copytree(here / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def objects(capsys, *arguments):
    return [json.loads(line) for line in said(capsys, *arguments, "--json")]


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))


def refused(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_the_evaluation(here, name):
    rows = read_csv(here / "metrics/predictions.csv")
    predictor = load(here / "models" / name)
    answers = predictor.predict([row["text"] for row in rows])
    assert predictor.classes == sorted(CLASSES)
    assert [answer.label for answer in answers] == [row[name] for row in rows]
    assert [max(answer.probabilities.values()) for answer in answers] == pytest.approx(
        [float(row[f"{name}_probability"]) for row in rows],
        abs=5e-3,  # evaluated in the precision of training
    )
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.label == max(answer.probabilities, key=answer.probabilities.get)


def test_questions_are_lower_cased_as_in_training(copied):
    described = json.loads((copied / "data/encoders/tiny-bert/tokenizer.json").read_text())
    described["normalizer"]["lowercase"] = False
    tokenizer, config = Tokenizer.from_str(json.dumps(described)), read_config(copied / "models/scratch")
    for lowercase in (True, False):
        write_config(
            copied / "models/scratch", config | {"vocabulary": config["vocabulary"] | {"lowercase": lowercase}}
        )
        predictor = Predictor(load(copied / "models/scratch").trained, tokenizer, "cpu")
        [lower], [upper] = predictor.predict(["who is the king"]), predictor.predict(["WHO is the King"])
        assert (lower.probabilities == upper.probabilities) == lowercase


def test_any_collection_of_texts_is_classified(here):
    predictor, texts = load(here / "models/scratch"), ["who is it ?", "where ?"]
    expected = [(answer.text, str, answer.label) for answer in predictor.predict(texts)]
    for collection in ((text for text in texts), tuple(texts), np.array(texts), pandas.Series(texts, index=[7, 3])):
        assert [(row.text, type(row.text), row.label) for row in predictor.predict(collection)] == expected
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ("Hamlet", r"texts: a str; expected a list of texts, such as predict\(\['Who wrote Hamlet \?'\]\)"),
        (b"Hamlet", "texts: a bytes; expected a list"),
        (None, "texts: a NoneType; expected a list"),
        (np.array("Hamlet"), "texts: a ndarray; expected a list"),
        (pandas.DataFrame({"text": ["who ?"]}), "texts: a DataFrame; expected a list"),
        ({"text": "who ?"}, "texts: a dict; expected a list"),
        (["who ?", None], "^text 2 is None, expected a text; correct it, or leave it out$"),
        (pandas.Series(["who ?", "why ?", None]), "^text 3 is (None|nan), expected a text"),
        (["who ?", float("nan")], "^text 2 is nan, expected a text"),
        (["who ?", "\t"], "^text 2 is empty"),
        (["who \ud800 ?"], "^text 1 holds half a character"),
    ],
)
def test_what_is_no_collection_of_texts_is_refused(here, texts, told):
    with pytest.raises(QcError, match=told):
        load(here / "models/scratch").predict(texts)


def test_a_line_of_classes_or_of_json_answers_a_question(here, capsys):
    asked = ["who is it ?", "where is the dog ?"]
    found = objects(capsys, *asked, "--model", "prefix")
    lines = said(capsys, *asked, "--top", 2, "--model", "prefix")
    for line, answer, text in zip(lines, found, asked, strict=True):
        assert list(answer) == ["text", "label", "probabilities"]
        assert list(answer["probabilities"]) == sorted(CLASSES)
        first, second, *_ = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        assert first[0] == answer["label"]
        assert line == f"{first[0]} {first[1]:.3f}  {second[0]} {second[1]:.3f}  {text}"
        [top] = objects(capsys, text, "--top", 2, "--model", "prefix")
        assert list(top["probabilities"].items()) == [first, second]


def test_a_file_and_standard_input_hold_a_question_a_line_or_what_is_named(here, capsys, tmp_path, monkeypatch):
    questions = ["who is it ?", 'where is the "dog" ?', "why — ünïcode ?"]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(questions) + "\n", encoding="utf-8")
    expected = said(capsys, *questions)
    assert len(expected) == 3
    assert said(capsys, "--file", path) == expected
    for arguments in ([], ["-"], ["--file", "-"]):
        pipe(monkeypatch, "\r\n".join(questions))
        assert said(capsys, *arguments) == expected
    for form, content in {
        "csv": "id,q\n1,who is it ?\n2,where ?\n",
        "jsonl": '{"q": "who is it ?"}\n{"q": "where ?"}\n',
        "tsv": "q\tid\nwho is it ?\t1\nwhere ?\t2\n",
    }.items():
        pipe(monkeypatch, content)
        assert said(capsys, "--file", "-", "--column", "q", "--format", form) == said(capsys, "who is it ?", "where ?")


ODD = ["who\x0bis the\x0cking ?", "who\nis the\r\nking ?", "who\x00is the king ?", " who is the king ? "]


def test_what_training_takes_is_taken_and_every_question_has_one_line(here, capsys, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ODD))
    for arguments in (ODD, ["--file", path]):
        lines = said(capsys, *arguments)
        assert len(lines) == len(ODD)
        assert lines[1].endswith(r"  who\nis the\r\nking ?")
        assert [answer["text"] for answer in objects(capsys, *arguments)] == ODD


def test_a_label_is_one_line_and_is_never_taken_for_an_abstention(here):
    assert as_text(Prediction("who ?", "a\nb", {"a\nb": 1.0}, False), "a\nb", 1) == r"a\nb 1.000  who ?"
    answer = Prediction("who ?", "?", {"?": 0.75, "a": 0.25}, False)
    assert as_text(answer, "?", 2) == '"?" 0.750  a 0.250  who ?'
    assert as_text(answer, None, 1) == '?  "?" 0.750  who ?'


def test_a_column_of_a_table_is_classified(here, capsys, tmp_path):
    texts = ['who is the "king" ?', "where is\tthe dog, or\nthe cat ?", "why ?"]
    path = tmp_path / "asked.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "message"], *enumerate(texts)])
    found = objects(capsys, "--file", path, "--column", "message")
    assert [answer.pop("line") for answer in found] == [2, 3, 5]
    assert found == objects(capsys, *texts)
    told = refused(capsys, "--file", path)
    assert "asked.csv:1: no column 'text', which --column names; columns are: id, message" in told


def test_answers_are_a_table_that_a_spreadsheet_may_open(here, capsys, tmp_path):
    path, texts = tmp_path / "asked.jsonl", ['who is "it", and why ?', "=1+1 ?", "who\ris\nit ?"]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    expected = objects(capsys, "--file", path)
    for options, shown in ([], "'=1+1 ?"), (["--raw"], "=1+1 ?"):
        assert main(["predict", "--file", str(path), "--csv", *options]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
        assert [row["text"] for row in rows] == [texts[0], shown, texts[2]]
        for row, answer in zip(rows, expected, strict=True):
            assert (row["line"], row["label"]) == (str(answer["line"]), answer["label"])
            assert float(row["probability"]) == pytest.approx(max(answer["probabilities"].values()), abs=1e-6)


def test_an_invalid_line_is_refused_before_the_first_answer_unless_it_is_to_be_left_out(
    here, capsys, tmp_path, monkeypatch
):
    path = tmp_path / "asked.txt"
    path.write_text("\n" + "who is it ?\n" * 10_000 + " \nwhere ?\n")
    assert "asked.txt:1: text is empty; 2 such line(s) to correct: 1, 10002" in refused(capsys, "--file", path)
    with path.open() as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        assert "standard input:1: text is empty" in refused(capsys, "-")
    path.write_text("\nwho is it ?\n \n\nwhere ?\n\n")
    found = objects(capsys, "--file", path, "--skip-empty")
    assert [(answer["line"], answer["text"]) for answer in found] == [(2, "who is it ?"), (5, "where ?")]


@pytest.mark.parametrize(
    ("closed", "told"), [("<&-", "standard input is closed; give texts"), (">&-", "standard output is closed; send it")]
)
def test_closed_streams_are_named(here, closed, told):
    command = f"{sys.executable} -m qc predict - {closed}"
    done = subprocess.run(
        command, shell=True, input="", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {told}")


def test_a_pipe_is_read_once(here, capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("who is it ?\n",))
    writer.start()
    assert said(capsys, "--file", pipe) == said(capsys, "who is it ?")
    writer.join()


@pytest.mark.parametrize("temperature", [2.5, None])
def test_a_question_of_which_the_model_is_unsure_is_not_answered(copied, capsys, temperature):
    changed = {"temperature": temperature, "precision": "bf16"}
    write_config(copied / "models/scratch", read_config(copied / "models/scratch") | changed)
    assert load("models/scratch").trained.precision == "bf16"  # that `evaluate` predicts in; here it is fp32
    texts = ["who is it ?", "where ?", "the dog"]
    asked = [*texts, "--model", "scratch", "--min-confidence"]
    plain = load("models/scratch").predict(texts)
    assert main(["predict", *asked, "0", "--json"]) == 0
    printed = capsys.readouterr()
    warned = "warning: models/scratch: probabilities are not calibrated, since no temperature could be fitted"
    assert printed.err.startswith(warned) if temperature is None else not printed.err
    found = [json.loads(line) for line in printed.out.splitlines()]
    for answer, other in zip(found, plain, strict=True):
        assert (answer["label"], answer["abstained"]) == (other.label, False)
        powers = np.array(list(other.probabilities.values())) ** (1 / (temperature or 1))
        assert list(answer["probabilities"].values()) == pytest.approx((powers / powers.sum()).tolist(), abs=1e-5)
    confidences = [max(answer["probabilities"].values()) for answer in found]
    least = np.mean(sorted(confidences)[:2])
    labels = [row.label if confidence >= least else None for row, confidence in zip(plain, confidences, strict=True)]
    assert labels.count(None) == 1
    found = objects(capsys, *asked, least)
    assert [(answer["label"], answer["abstained"]) for answer in found] == [(label, label is None) for label in labels]
    table = csv.DictReader(said(capsys, *asked, least, "--csv"))
    assert [row["label"] for row in table] == [label or "" for label in labels]
    if temperature is None:  # P itself is enough
        [alone] = load("models/scratch").predict(["where ?"])  # other texts beside it may move the last bit
        least_of_all = max(alone.probabilities.values())
        [exact] = objects(capsys, "where ?", "--model", "scratch", "--min-confidence", least_of_all)
        assert not exact["abstained"]
    lines = said(capsys, *asked, least)
    assert [line.startswith("?  ") for line in lines] == [label is None for label in labels]


def test_from_a_subfolder_it_is_said_where_to_run_it(here, capsys, monkeypatch):
    monkeypatch.chdir(here / "src")
    top = f"run this from the top of the repository: cd {here}"
    assert f"models: no trained model; `dvc repro` trains them, `dvc pull` fetches them; {top}" in refused(capsys, "?")
    assert f"models/prefix: no such model; `dvc repro` trains one, `dvc pull` fetches one; {top}" in refused(
        capsys, "who ?", "--model", "prefix"
    )


def test_the_best_model_by_validation_answers(copied, capsys):
    for name, (accuracy, loss) in {"scratch": (0.8, 0.1), "prefix": (0.9, 0.2), "distilbert": (0.9, 0.3)}.items():
        path = copied / f"reports/train_{name}.json"
        write_json(path, read_json(path) | {"valid": {"accuracy": accuracy, "loss": loss}})
    asked = ["who is the king of the house", "--json"]
    assert said(capsys, *asked) == said(capsys, *asked, "--model", "prefix")
    assert said(capsys, *asked) != said(capsys, *asked, "--model", "distilbert")


def test_a_long_question_is_cut_with_a_warning(here, capsys):
    assert main(["predict", "dog " * 12]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", "dog " * 10_000]) == 0
    assert "warning: text 1 is longer than 12 tokens, and was cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["who ?", " "], "text 2 is empty"),
        (["who\udcff ?"], "text 1 holds"),
        (["who ?", "--top", 0], "--top: invalid value 0"),
        (["who ?", "--top", 2, "--csv"], "--top and --csv: expected one of them"),
        (["who ?", "--raw"], "--raw: expected --csv"),
        (["who ?", "--min-confidence", 1.5], "--min-confidence: invalid value 1.5"),
        (["who ?", "--file", "x"], "TEXT and --file: expected one of them"),
        (["who ?", "--column", "x"], "--column, --format and --skip-empty: expected a file or standard input"),
        (["who ?", "--skip-empty"], "--column, --format and --skip-empty: expected a file or standard input"),
        (["--file", "-", "--column", "x"], "--column: invalid value 'x'; expected a .csv, .tsv or .jsonl file, or one"),
        (["--file", "x.txt", "--column", "x"], "--column: invalid value 'x'; expected a .csv"),
        (["--file", "none.txt"], "none.txt: cannot be read: No such file"),
        (["--file", "src"], "src: cannot be read: Is a directory"),
    ],
)
def test_bad_arguments_are_refused(here, capsys, arguments, told):
    assert told in refused(capsys, *arguments)


def test_a_model_is_named_or_given_by_its_folder(here, capsys, tmp_path, monkeypatch):
    expected = said(capsys, "who ?", "--model", "prefix")
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "who ?", "--model", here / "models/prefix/") == expected


def test_a_missing_or_foreign_model_is_refused(copied, capsys):
    assert "models/none: no such model" in refused(capsys, "who ?", "--model", "none")
    config = copied / "models/scratch/config.json"
    write_json(config, {"architectures": ["BertModel"]})
    assert "models/scratch/config.json: not a model of this version" in refused(capsys, "who ?", "--model", "scratch")
    shutil.rmtree(copied / "models")
    assert "models: no trained model" in refused(capsys, "who ?")


def test_a_missing_encoder_or_another_tokenizer_is_refused(copied, capsys, finished):
    tokenizer = copied / "data/encoders/tiny-bert/tokenizer.json"
    cased = json.loads(tokenizer.read_text())
    cased["normalizer"]["lowercase"] = False
    for content in ((finished.mirror / "tiny-mpnet/tokenizer.json").read_text(), json.dumps(cased)):
        tokenizer.write_text(content)
        write_record(tokenizer.parent)  # that the record beside it fits is no excuse
        for name in MODELS:
            assert "tiny-bert/tokenizer.json: SHA-256 " in refused(capsys, "who ?", "--model", name)
    shutil.rmtree(copied / "data/encoders/tiny-bert")
    assert "tiny-bert: no such encoder" in refused(capsys, "who ?", "--model", "distilbert")


@pytest.mark.parametrize(
    "name",
    [
        *(f"models/prefix/{name}" for name in ("config.json", "model.safetensors")),
        *(f"data/encoders/tiny-bert/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
    ],
)
@pytest.mark.parametrize("damage", [Path.unlink, make_folder])
def test_a_missing_file_is_named(copied, name, damage):
    damage(copied / name)
    with pytest.raises(QcError, match=f"{Path(name).parent}"):
        load(copied / "models/prefix")


def test_a_model_that_was_given_the_answer_is_refused(copied, capsys):
    folder = copied / "models/prefix"
    config = read_config(folder)
    config["vocabulary"]["include_fine_label"] = True
    write_config(folder, config)
    assert "trained with the fine label" in refused(capsys, "who ?", "--model", "prefix")


@pytest.fixture(scope="module", params=[*MODELS, "scratch without masks"])
def classifier(finished, request):
    """One of the models; the last as a notebook has it, which attends to padding."""
    predictor = load(finished.root / "models" / request.param.split()[0])
    if request.param not in MODELS:
        predictor.model.config = replace(predictor.model.config, mask_padding=False)
    return predictor


@settings(max_examples=25)
@given(texts=st.lists(st.lists(st.sampled_from(VOCABULARY[4:]), min_size=1, max_size=20).map(" ".join), min_size=2))
def test_a_question_has_the_same_logits_alone_and_in_any_company(classifier, texts):
    def logits(asked, precision):
        questions = classifier.trained.pack(classifier.tokenize(asked), [0] * len(asked))
        return predict(classifier.model, questions, precision)

    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        alone = torch.cat([logits([text], precision) for text in texts])
        torch.testing.assert_close(logits(texts, precision), alone, atol=tolerance, rtol=0)
