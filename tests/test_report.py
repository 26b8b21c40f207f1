"""The report: one page, read as HTML and opened in a real browser."""

import math
import os
import shutil
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from qc.commands import report
from qc.commands.report_figures import line_chart
from qc.errors import QcError
from qc.evaluation.figure_tables import write_coverage, write_figure_tables
from qc.evaluation.predictions import write_predictions
from qc.evaluation.scores import score_test
from qc.files import read_json, write_csv, write_json
from qc.models.registry import MODELS
from tests.conftest import ROOT

NOT_CALIBRATED = "not calibrated (T = 1, too few mistakes on validation)"
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


class Page(HTMLParser):
    """The page as a reader gets it: its words, and its tables as rows of cells."""

    def __init__(self):
        super().__init__()
        self.tags, self.tables, self.rows, self.inside, self.text = [], {}, [], None, ""
        assert report.run(None) == 0
        self.feed(report.PAGE.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "table":
            self.rows = []
            self.name = dict(attributes).get("aria-label", f"table {len(self.tables)}")
            self.tables[self.name] = self.rows
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None if tag in ("td", "th", "caption", "style") else self.inside

    def handle_data(self, data):
        if self.inside == "caption":
            self.tables[data] = self.rows
        elif self.inside in ("td", "th", "span") and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
        if self.inside != "style":
            self.text += data

    def row(self, table, first):
        """Cells of the row that begins with `first`, in the table whose caption begins with `table`."""
        tables = [rows for name, rows in self.tables.items() if name.startswith(table)]
        return next(cells for rows in tables for name, *cells in rows if name == first)


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
    page, scores = Page(), read_json(report.REPORTS / "test.json")
    rows = page.tables["table 0"][1:]
    assert [row[0].partition(":")[0] for row in rows] == [*MODELS, "majority class", "TF-IDF + LinearSVC"]
    for name, row in zip(MODELS, rows, strict=False):
        keys = ("macro_f1", "loss", "ece", "brier")
        assert row[1:4] == ["1,234", "0.500", f"{scores[name]['accuracy']:.3f}"]
        assert row[5:] == [f"{scores[name][key]:.3f}" for key in keys]
    assert rows[0][4] == "0.215 to 0.785"  # Wilson, 4 of 8: (4 + 1.92 -+ 1.96 sqrt(2 + .96)) / (8 + 3.84)
    assert rows[3] == ["majority class", "", "", "0.500", "0.215 to 0.785", "", "", "", ""]
    for words in ("15 equal-width bins", "8 questions to train on", "Trained in bf16", "Leak audit", "transformers"):
        assert words in page.text


def test_a_confusion_matrix_has_the_true_classes_in_rows():
    page = Page()
    matrix = page.tables["confusion matrix of scratch"]
    assert matrix == [["true class", "A", "B", "C"], ["A", "2", "2", ""], ["B", "1", "2", ""], ["C", "1", "", ""]]


def test_mcnemars_columns_belong_to_the_models_in_their_order():
    page = Page()
    compared = "Is one better than the other?"
    assert page.row(compared, "prefix and scratch") == ["3", "0", "0.25"]  # 2 / 2^3
    assert page.row(compared, "distilbert and prefix") == ["1", "2", "1"]
    assert page.row(compared, "scratch and tfidf_svm") == ["0", "4", "0.125"]


def test_calibration_is_shown_before_and_after():
    page = Page()
    fitted = "Before and after"
    # 4 of 8 correct. T = 2 takes 0.9 and 0.05 to their square roots: 0.6796 and 0.1602 of the sum.
    loss, calibrated = -(math.log(0.9) + math.log(0.05)) / 2, -(math.log(0.6796) + math.log(0.1602)) / 2
    assert page.row(fitted, "scratch")[:5] == ["2.00", f"{loss:.3f}", f"{calibrated:.3f}", "0.400", "0.180"]
    cells = page.row(fitted, "prefix")
    assert cells[0] == NOT_CALIBRATED
    assert cells[1] == cells[2]
    assert f"probabilities; prefix: {NOT_CALIBRATED}" in page.text


def test_the_confidence_for_a_share_of_answers_is_rounded_down():
    curve = [("0.99", 0.25, 1.0), ("0.987654", 0.5, 0.9), ("0.98", 0.625, 0.8), ("0.555555", 1.0, 0.7)]
    rows = [[name, "1.00", *point] for name in MODELS for point in curve]
    write_csv(report.PLOTS / "coverage.csv", ["model", "temperature", "min_confidence", "coverage", "accuracy"], rows)
    cells = Page().row("Accuracy on the answered questions", "prefix")
    assert cells == ["0.800 (P = 0.98)", *["0.700 (P = 0.55)"] * 4]  # 0.98 answers 0.625 of the questions


def test_figures_show_the_classes_with_the_most_questions():
    classes = [f"class {number:02}" for number in range(33)]
    labels = [number for number in range(33) for _ in range(1 if number in (0, 7, 32) else 2)]
    write_record(classes, labels, dict.fromkeys(MODELS, labels))
    page = Page()
    drawn = [name for number, name in enumerate(classes) if number not in (0, 7, 32)]
    assert page.tables["confusion matrix of prefix"][0] == ["true class", *drawn]
    assert [row[0] for row in page.tables["F1 by class"][::3]] == drawn
    assert "The 30 of 33 classes that have the most test questions." in page.text
    assert page.row("Questions by class", "class 00") == ["1", "1", "1"]


def test_odd_class_names_are_cut_in_figures_and_named_in_full(capfd):
    classes = ["Loc", "loc", f"long {'name ' * 40}1", f"long {'name ' * 40}2", "🐈", "$\\alpha$", "<b>", "a.b"]
    labels = [number for number in range(8) for _ in range(2)]
    write_record(classes, labels, dict.fromkeys(MODELS, labels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page()
    assert capfd.readouterr().err == ""
    short = ["Loc", "loc", "long name name nam… (3)", "long name name nam… (4)", *classes[4:]]
    assert page.tables["confusion matrix of prefix"][0] == ["true class", *short]
    assert [row[0] for row in page.tables["Questions by class"][1:]] == classes
    assert "differ in letter case alone: Loc and loc." in page.text
    assert "b" not in page.tags


def test_html_in_a_question_is_shown_as_text(here):
    write_record(text=HOSTILE)
    (here / "params.yaml").write_text(f"# {HOSTILE}\n{(here / 'params.yaml').read_text()}")
    write_labels(text=HOSTILE)
    page = Page()
    assert not {"img", "script"} & set(page.tags)
    assert page.text.count(HOSTILE) == 1 + 1 + 4 + 1 + 2  # parameters, labels, mistakes


def test_texts_that_a_spreadsheet_would_run_are_shown_as_they_are():
    write_record(classes=["=A", "@B", "C"], text="=1+1")
    write_labels(text="-1", label="=A", suggested="@B")
    page = Page()
    assert "'" not in "".join(cell for rows in page.tables.values() for row in rows for cell in row)
    assert page.row("The most suspicious", "-1") == ["=A", "@B", "0.75", "tfidf"]


def test_labels_that_look_wrong_are_listed_where_they_are_of_this_data():
    write_labels(text="long " * 40_000)
    page = Page()
    assert "1 of the 8 labels" in page.text
    assert "(200000 characters" in page.text
    assert page.row("", "why ?") == ["A 1, B 2"]
    summary = read_json(report.SUSPECTS_SUMMARY)
    write_json(report.SUSPECTS_SUMMARY, {**summary, "split": {"train": "other", "valid": "2"}})
    assert "Labels that look wrong" not in Page().text


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
    with pytest.raises(QcError, match=r"^reports/labels.csv.*cannot be read.*`qc labels`") as error:
        Page()
    assert "dvc repro" not in str(error.value)


def test_seeds_are_shown_where_they_are_of_the_same_pipeline():
    scores = read_json(report.REPORTS / "test.json")
    for change, shown in ((0.0, True), (0.1, False)):
        losses = {name: scores[name]["loss"] + change for name in MODELS}
        seeds = {
            seed: {name: {"accuracy": accuracy, "loss": losses[name]} for name in MODELS}
            for seed, accuracy in (("1234", 0.5), ("2", 0.7))
        }
        seeds[str(report.load_settings().seed)] = seeds.pop("1234")
        write_json(report.SEEDS, seeds)
        page = Page()
        assert ("over 2 training seeds" in page.text) == shown
        if shown:
            assert page.row("Test accuracy over 2", "prefix") == ["0.600", "0.141", "0.500", "0.700"]


def test_a_suspected_leak_comes_first():
    data = read_json(report.REPORTS / "data.json")
    write_json(report.REPORTS / "data.json", {**data, "leak_suspected": True})
    assert (
        "A leak is suspected: the first token alone predicts the class of 25.0 %" in Page().text.partition("Results")[0]
    )


def test_the_same_run_gives_the_same_page():
    Page()
    before = report.PAGE.read_bytes()
    Page()
    assert report.PAGE.read_bytes() == before


def other_rows(path):
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def other_columns(path):
    path.write_text(path.read_text().replace("prefix", "suffix"))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("plots/reliability.csv", lambda path: path.unlink(), "^plots/reliability.csv: cannot be read"),
        ("metrics/predictions.csv", other_rows, "^metrics/predictions.csv: 7 rows, but reports/test.json is of 8"),
        ("metrics/predictions.csv", other_columns, "not of this version"),
        ("reports/test.json", other_columns, "not of this version"),
        ("reports/data.json", lambda path: path.write_text("{}"), "not of this version"),
    ],
)
def test_a_record_that_is_missing_or_of_another_run_is_named_and_the_earlier_page_stays(here, name, damage, message):
    Page()
    before = report.PAGE.read_bytes()
    damage(here / name)
    with pytest.raises(QcError, match=message) as error:
        Page()
    assert "`dvc repro`" in str(error.value)
    assert report.PAGE.read_bytes() == before


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
    Page()
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
