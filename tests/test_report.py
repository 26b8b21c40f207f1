"""The report: one page, read as HTML and opened in a real browser."""

import math
import os
import re
import shutil
import warnings
from html import unescape

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from qc.commands import report
from qc.commands.report_figures import line_chart
from qc.errors import QcError
from qc.evaluation.predictions import write_coverage, write_figure_tables, write_predictions
from qc.evaluation.scores import score_test
from qc.files import read_json, write_csv, write_json
from qc.models.registry import MODELS
from tests.conftest import ROOT

NOT_CALIBRATED = "not calibrated (T = 1, none could be fitted on validation)"
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'
# Eight questions of three classes. A model gives the predicted class 0.9, each other class 0.05.
LABELS = [0, 0, 0, 0, 1, 1, 1, 2]
PREDICTED = {
    "scratch": [0, 0, 1, 1, 1, 1, 0, 0],  # 4 correct
    "prefix": [0, 0, 0, 0, 1, 1, 0, 2],  # 7
    "distilbert": [1, 1, 0, 0, 1, 1, 1, 2],  # 6
}
TEMPERATURES = {"scratch": 2.0, "prefix": None, "distilbert": 1.0}


def write_record(classes=("A", "B", "C"), labels=LABELS, predicted=PREDICTED, text="what is it ?"):
    """Write what `qc report` reads, into the working directory."""
    labels, number = np.array(labels), len(classes)
    probabilities = {
        name: np.where(np.eye(number)[numbers] == 1, 0.9, 0.1 / (number - 1)) for name, numbers in predicted.items()
    }
    logits = {name: np.log(table) for name, table in probabilities.items()}
    baselines = {"majority": np.zeros_like(labels), "tfidf_svm": labels}
    scores = score_test(logits, labels, classes, baselines, TEMPERATURES)
    write_json(report.REPORTS / "test.json", scores)
    split = {"id": range(len(labels)), "text": [text] * len(labels), "label": labels.tolist()}
    path = report.METRICS / "predictions.csv"
    columns = write_predictions(path, split, classes, probabilities, baselines["tfidf_svm"])
    write_figure_tables(report.PLOTS, columns, labels, probabilities, scores)
    write_coverage(report.PLOTS, labels, logits, TEMPERATURES)
    for name in MODELS:
        training = {"parameters": {"trainable": 1234}, "valid": {"accuracy": 0.5}, "precision": "bf16"}
        write_json(report.REPORTS / f"train_{name}.json", training)
        header = ["epoch", "train_loss", "valid_loss", "valid_accuracy"]
        write_csv(report.PLOTS / f"train_{name}.csv", header, [[1, 2.0, 1.0, 0.25], [2, 1.0, 0.5, 0.75]])
    sizes = {classes[label]: int(count) for label, count in enumerate(np.bincount(labels)) if count}
    same = {"duplicates": {"train": 0}, "overlap": {"train_valid": 0}}
    same |= {"conflicting_labels": 0, "conflicting_fine_labels": 0}
    data = {
        "size": dict.fromkeys(("train", "valid", "test"), len(labels)),
        "classes": dict.fromkeys(("train", "valid", "test"), sizes),
        "groups_of_duplicates": {},
        **same,
        "by_ids": same,
        "truncated": {"train": 0},
        "length": {split: {"p0": 3, "p100": 9} for split in ("train", "valid", "test")},
        "leak_audit": {"first_token": 0.25},
        "leak_suspected": False,
        "sha256": {"train": "1", "valid": "2"},
    }
    write_json(report.REPORTS / "data.json", data)


def write_labels(**changed):
    """Write what `qc labels` found in the data of the record: one question."""
    row = {"id": 3, "text": "who ?", "label": "A", "suggested": "B", "confidence": 0.75, "agreeing": "tfidf"} | changed
    write_csv(report.SUSPECTS, list(row), [list(row.values())], inert=True)
    summary = {"split": {"train": "1", "valid": "2"}, "questions": 8, "models": ["tfidf"], "folds": 2, "suspects": 1}
    summary["confusions"] = [{"label": "A", "suggested": "B", "questions": 1}]
    summary["conflicting_duplicates"] = [{"text": "why ?", "labels": {"A": 1, "B": 2}}]
    write_json(report.SUSPECTS_SUMMARY, summary)


def written():
    """The page, after writing it."""
    assert report.run(None) == 0
    return report.PAGE.read_text(encoding="utf-8")


def table(page, words):
    """Cells by row of the table with these words in its caption or before it."""
    rows = page.partition(words)[2].partition("</table>")[0].split("<tr>")[1:]
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]


def row(page, words, first):
    """Other cells of a table's row that begins with `first`."""
    return next(cells for name, *cells in table(page, words) if name == first)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with settings and the record of a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("params.yaml", "data/sources.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    write_record()
    return tmp_path


def test_the_results_of_models_and_baselines_are_in_the_first_table():
    page, scores = written(), read_json(report.REPORTS / "test.json")
    rows = table(page, "<h2>Results")[1:]
    assert [cells[0].partition(":")[0] for cells in rows] == [*MODELS, "majority class", "TF-IDF + LinearSVC"]
    for name, cells in zip(MODELS, rows, strict=False):
        assert cells[1:4] == ["1,234", "0.500", f"{scores[name]['accuracy']:.3f}"]
        assert cells[5:] == [f"{scores[name][key]:.3f}" for key in ("macro_f1", "loss", "ece", "brier")]
    assert rows[0][4] == "0.215 to 0.785"  # Wilson, 4 of 8: (4 + 1.92 -+ 1.96 sqrt(2 + .96)) / (8 + 3.84)
    assert rows[3][1:] == ["", "", "0.500", "0.215 to 0.785", "", "", "", ""]
    # Class A of scratch: 2 of 4 found, 2 of 4 predictions correct; of prefix 4 of 4, and 4 of 5.
    assert [cells[-4:-1] for cells in table(page, 'aria-label="F1 by class"')[1:3]] == [
        ["0.500", "0.500", "0.500"],
        ["0.800", "1.000", "0.889"],
    ]
    for words in ("3 models on the same 8 test questions", "15 equal-width bins", "Trained in bf16", "transformers"):
        assert words in page


def test_a_confusion_matrix_has_the_true_classes_in_rows():
    matrix = table(written(), 'aria-label="confusion matrix of scratch"')
    assert matrix == [["true class", "A", "B", "C"], ["A", "2", "2", ""], ["B", "1", "2", ""], ["C", "1", "", ""]]


def test_mcnemars_columns_belong_to_the_models_in_their_order():
    rows = {name: cells for name, *cells in table(written(), "Is one better than the other?")}
    assert rows["prefix and scratch"] == ["3", "0", "0.25"]  # 2 / 2^3
    assert rows["distilbert and prefix"] == ["1", "2", "1"]
    assert rows["scratch and tfidf_svm"] == ["0", "4", "0.125"]


def test_calibration_is_shown_before_and_after():
    page = written()
    # 4 of 8 correct. T = 2 takes 0.9 and 0.05 to their square roots: 0.6796 and 0.1602 of the sum.
    loss, calibrated = -(math.log(0.9) + math.log(0.05)) / 2, -(math.log(0.6796) + math.log(0.1602)) / 2
    cells = row(page, "Before and after", "scratch")
    # Brier: (0.1^2 + 2 * 0.05^2 + 0.9^2 + 0.95^2 + 0.05^2) / 2, and the same of 0.6796 and 0.1602.
    assert cells == ["2.00", f"{loss:.3f}", f"{calibrated:.3f}", "0.400", "0.180", "0.865", "0.673"]
    assert row(page, "Before and after", "prefix")[0] == NOT_CALIBRATED
    assert f"probabilities; prefix: {NOT_CALIBRATED}" in page


def test_the_confidence_for_a_share_of_answers_is_rounded_down():
    curve = [("0.99", 0.25, 1.0), ("0.987654", 0.5, 0.9), ("0.98", 0.625, 0.8), ("0.555555", 1.0, 0.7)]
    rows = [[name, "1.00", *point] for name in MODELS for point in curve]
    write_csv(report.PLOTS / "coverage.csv", ["model", "temperature", "min_confidence", "coverage", "accuracy"], rows)
    cells = row(written(), "Accuracy on the answered questions", "prefix")
    assert cells == ["0.800 (P = 0.98)", *["0.700 (P = 0.55)"] * 4]  # 0.98 answers 0.625 of the questions


def test_figures_show_the_classes_with_the_most_questions():
    classes = [f"class {number:02}" for number in range(33)]
    labels = [number for number in range(33) for _ in range(1 if number in (0, 7, 32) else 2)]
    write_record(classes, labels, dict.fromkeys(MODELS, labels))
    page = written()
    drawn = [name for number, name in enumerate(classes) if number not in (0, 7, 32)]
    assert table(page, 'aria-label="confusion matrix of prefix"')[0] == ["true class", *drawn]
    assert [cells[:-1] for cells in table(page, 'aria-label="F1 by class"')[1:4]] == [
        ["class 00", "1", "scratch", "1.000", "1.000", "1.000"],
        *([name, "1.000", "1.000", "1.000"] for name in ("prefix", "distilbert")),
    ]
    assert "The 30 of 33 classes that have the most test questions." in page
    assert row(page, "Questions by class", "class 00") == ["1", "1", "1"]


def test_odd_class_names_are_cut_in_figures_and_named_in_full(capfd):
    classes = ["Loc", "loc", f"long {'name ' * 40}1", f"long {'name ' * 40}2", "🐈", "$\\alpha$", "<b>", "a.b"]
    labels = [number for number in range(8) for _ in range(2)]
    write_record(classes, labels, dict.fromkeys(MODELS, labels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = written()
    assert capfd.readouterr().err == ""
    short = ["Loc", "loc", "long name name nam… (3)", "long name name nam… (4)", *classes[4:]]
    assert table(page, 'aria-label="confusion matrix of prefix"')[0] == ["true class", *short]
    assert [cells[0] for cells in table(page, "Questions by class</caption>")[1:]] == classes
    assert "differ in letter case alone: Loc and loc." in page
    assert "<b>" not in page


def test_texts_are_shown_as_they_are(here):
    write_record(classes=["=A", "@B", "C"], text=HOSTILE)
    write_labels(text="=1+1", label="=A", suggested="@B")
    (here / "params.yaml").write_text(f"# {HOSTILE}\n{(here / 'params.yaml').read_text()}")
    page = written()
    assert "<img" not in page
    assert "<script" not in page
    assert unescape(page).count(HOSTILE) == 4 + 1 + 2 + 1  # mistakes, parameters
    assert row(page, "scratch: the 4 most", HOSTILE) == ["=A", "@B", "0.900"]
    assert row(page, "The most suspicious", "=1+1") == ["=A", "@B", "0.75", "tfidf"]


def test_labels_that_look_wrong_are_listed_where_they_are_of_this_data():
    write_labels(text="long " * 40_000)
    page = written()
    assert "1 of the 8 labels" in page
    assert "(200000 characters" in page
    assert row(page, "Equal questions with different labels", "why ?") == ["A 1, B 2"]
    summary = read_json(report.SUSPECTS_SUMMARY)
    write_json(report.SUSPECTS_SUMMARY, {**summary, "split": {"train": "other", "valid": "2"}})
    assert "Labels that look wrong" not in written()


HEADER = b"id,text,label,suggested,confidence,agreeing\n"


@pytest.mark.parametrize(
    "content",
    [
        HEADER.replace(b",", b";") + b"1;who ?;A;B;0.9;tfidf\n",
        HEADER + b"1,who ?",
        HEADER + b"1,who ?,A,B,much,tfidf\n",
        HEADER.decode().encode("utf-16"),
    ],
)
def test_an_edited_file_of_labels_that_cannot_be_read_is_named(content):
    write_labels()
    report.SUSPECTS.write_bytes(content)
    with pytest.raises(QcError, match=r"^reports/labels.csv: cannot be read.*`qc labels`") as error:
        written()
    assert "dvc repro" not in str(error.value)


@pytest.mark.parametrize("change", [0.0, 0.1])
def test_seeds_are_shown_where_they_are_of_the_same_run(change):
    scores = read_json(report.REPORTS / "test.json")
    losses = {name: scores[name]["loss"] + change for name in MODELS}
    seeds = {
        seed: {name: {"accuracy": accuracy, "loss": losses[name]} for name in MODELS}
        for seed, accuracy in ((report.load_settings().seed, 0.5), (-1, 0.7))
    }
    write_json(report.SEEDS, seeds)
    page = written()
    assert ("over 2 training seeds" in page) == (change == 0)
    if not change:
        assert row(page, "over 2 training seeds", "prefix") == ["0.600", "0.141", "0.500", "0.700"]


def test_a_suspected_leak_comes_first():
    data = read_json(report.REPORTS / "data.json")
    write_json(report.REPORTS / "data.json", {**data, "leak_suspected": True})
    first = written().partition("<h2>Results")[0]
    assert "A leak is suspected: the first token alone predicts the class of 25.0 %" in first


OTHER = "not of this version"


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("plots/coverage.csv", lambda text: text.partition("distilbert")[0], OTHER),
        ("metrics/predictions.csv", lambda text: text.partition("7,what")[0], "7 rows, but reports/test.json is of 8"),
        ("metrics/predictions.csv", lambda text: text.replace("prefix", "suffix"), OTHER),
        ("reports/test.json", lambda text: text.replace("prefix", "suffix"), OTHER),
        ("reports/data.json", lambda text: "{}", OTHER),
        ("reports/data.json", lambda text: text.replace("truncated", "cut"), OTHER),
        ("reports/test.json", lambda text: "{", "^reports/test.json: cannot be read"),
    ],
)  # fmt: skip
def test_a_record_that_is_broken_or_of_another_run_is_named_and_the_earlier_page_stays(here, name, changed, message):
    before = written()
    assert written() == before
    (here / name).write_text(changed((here / name).read_text()))
    with pytest.raises(QcError, match=message) as error:
        written()
    assert "`dvc repro`" in str(error.value)
    assert report.PAGE.read_text() == before


def test_a_chart_places_its_points_and_marks():
    lines = {"a": [(0.0, 0.0, 1), (1.0, 0.5, 2)]}
    chart = line_chart("t", "x", "y", lines, unit_square=True)
    assert chart["lines"]["a"] == [(62, 312, 1), (508, 170, 2)]  # the plot is from (62, 312) to (508, 28)
    assert [mark for _, mark in chart["y_marks"]] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    epochs = line_chart("t", "epoch", "y", {"a": [(1, 0.7, 1), (2, 0.7, 1), (3, 0.7, 1)]}, least_step=1)
    assert [mark for _, mark in epochs["x_marks"]] == ["1", "2", "3"]
    assert [y for _, y, _ in epochs["lines"]["a"]] == [170, 170, 170]  # equal values are in the middle
    loss = line_chart("t", "epoch", "y", {"a": [(1, 2000.0, 1), (40, 0.5, 1)], "b": [(1, 1000.0, 1)]}, least_step=1)
    assert [mark for _, mark in loss["x_marks"]] == ["0", "10", "20", "30", "40"]
    assert [mark for _, mark in loss["y_marks"]] == ["0", "500", "1000", "1500", "2000"]


# In a real browser.


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no chromium; install it (Debian: apt-get install chromium), or name one in CHROMIUM"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_on_a_phone_and_fetches_nothing(browser, here, scheme):
    write_record(text=HOSTILE)
    written()
    page, events = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme).new_page(), []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto((here / report.PAGE).as_uri(), wait_until="networkidle")
    assert events == [(here / report.PAGE).as_uri()]
    assert page.title() == "Question classification: report"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    def colour(element, name):
        return page.evaluate(f"element => getComputedStyle(element).{name}.match(/\\d+/g).map(Number)", element)

    body = page.locator("body").element_handle()
    ink, paper = colour(body, "color"), colour(body, "backgroundColor")
    assert (sum(paper) < sum(ink)) == (scheme == "dark")
    assert abs(sum(paper) - sum(ink)) > 450  # of 765
    charts = page.locator("figure svg").all()
    assert [chart.get_attribute("aria-label") for chart in charts] == [
        "validation accuracy by epoch", "validation loss by epoch", "training loss by epoch", "reliability diagram",
        "accuracy by coverage",
    ]  # fmt: skip
    for chart in charts:
        box = chart.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 150
        assert colour(chart.locator("text").first.element_handle(), "fill") == ink
        lines = [colour(line.element_handle(), "stroke") for line in chart.locator("g > polyline:first-child").all()]
        assert len({tuple(line) for line in lines}) == len(MODELS)
