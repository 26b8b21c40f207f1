"""The report: one page, opened in a real browser."""

import io
import os
import shutil
from xml.sax.saxutils import escape

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from qc.commands.report_figures import class_bars, confusion_matrix
from qc.files import read_csv, read_json, write_json
from tests.conftest import CLASSES

MODELS = ("scratch", "prefix", "distilbert")
FIGURES = [
    "validation accuracy by epoch", "validation loss by epoch", "training loss by epoch",
    *(f"confusion matrix of {name}" for name in MODELS),
    "F1 by class", "reliability diagram", "accuracy by coverage",
]  # fmt: skip
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no chromium; install it (Debian: apt-get install chromium), or name one in CHROMIUM"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


class Page:
    """A page that was opened, and whatever it said or asked for."""

    def __init__(self, browser, path, **context):
        self.events = []
        self.page = browser.new_context(**context).new_page()
        self.page.on("console", lambda message: self.events.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.events.append(f"error: {error}"))
        self.page.on("request", lambda request: self.events.append(f"request: {request.url}"))
        self.page.goto(path.as_uri(), wait_until="networkidle")

    def colours(self, element):
        """How many different colours the pixels of an element have."""
        return len(set(Image.open(io.BytesIO(element.screenshot())).convert("RGB").get_flattened_data()))


@pytest.fixture(scope="module")
def report(finished):
    """The report of the finished project."""
    finished.run("qc", "report")
    return finished.root / "report/index.html"


@pytest.fixture(scope="module")
def opened(browser, report):
    return Page(browser, report, viewport={"width": 1200, "height": 900})


def test_nothing_is_fetched_and_nothing_complains(opened, report):
    assert opened.events == [f"request: {report.as_uri()}"]


def test_every_figure_is_drawn(opened):
    pictures = opened.page.locator("figure svg").all()
    assert [picture.get_attribute("aria-label") for picture in pictures] == FIGURES
    for picture in pictures:
        box = picture.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 150
        assert opened.colours(picture) > 20, picture.get_attribute("aria-label")


def test_a_figure_shows_its_words(opened):
    words = opened.page.locator('svg[aria-label="confusion matrix of prefix"] text').all_text_contents()
    assert {*CLASSES, "predicted", "true class"} <= {word.strip() for word in words}
    legend = opened.page.locator('svg[aria-label="reliability diagram"] text').all_text_contents()
    assert set(MODELS) <= {word.strip() for word in legend}


def test_the_tables_tell_the_scores(opened, finished):
    scores = read_json(finished.root / "reports/test.json")
    rows = [row.inner_text() for row in opened.page.locator("table").first.locator("tbody tr").all()]
    assert len(rows) == len(MODELS) + 2
    for name, row in zip(MODELS, rows, strict=False):
        assert row.startswith(name)
        for key in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "loss", "ece", "brier"):
            assert f"{scores[name][key]:.3f}" in row
    text = opened.page.inner_text("body")
    for title in ("macro F1", "95 % interval", "Leak audit", "first token", "transformers", "params.yaml"):
        assert title in text
    curve = [row for row in read_csv(finished.root / "plots/coverage.csv") if row["model"] == "prefix"]
    half = next(row for row in curve if float(row["coverage"]) >= 0.5)
    assert f"{float(half['accuracy']):.3f} (P = {float(half['min_confidence']):.2f})" in text
    assert opened.page.locator("details").count() == 2 + len(MODELS)


def test_a_screenshot_can_be_taken(opened, tmp_path):
    file = tmp_path / "report.png"
    opened.page.screenshot(path=file, full_page=True)
    width, height = Image.open(file).size
    assert width == 1200
    assert height > 2000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, report, scheme):
    phone = Page(browser, report, viewport={"width": 360, "height": 740}, color_scheme=scheme).page
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    ink, paper = (
        phone.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert (sum(paper) < sum(ink)) == (scheme == "dark")
    assert abs(sum(paper) - sum(ink)) > 450  # of 765
    label = phone.locator('svg[aria-label="F1 by class"] text').first
    assert (
        phone.evaluate("label => getComputedStyle(label).fill.match(/\\d+/g).map(Number)", label.element_handle())
        == ink
    )


def test_the_same_run_gives_the_same_page(report, finished):
    before = report.read_bytes()
    finished.run("qc", "report")
    assert report.read_bytes() == before


def test_html_in_a_question_is_shown_and_not_executed(browser, restored):
    mistakes = restored.root / "plots/mistakes.csv"
    quoted = HOSTILE.replace('"', '""')
    mistakes.write_text(f'{mistakes.read_text().splitlines()[0]}\ndistilbert,-1,"{quoted}",ABBR,"<b>HUM</b>",0.9\n')
    restored.params.write_text(f"# {HOSTILE}\n{restored.params.read_text()}")
    restored.run("qc", "report")
    page = Page(browser, restored.root / "report/index.html")
    assert len(page.events) == 1
    assert page.page.title() == "Question classification: report"
    assert page.page.locator("img, script, td b").count() == 0
    page.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    text = page.page.inner_text("body")
    assert text.count(HOSTILE) == 2
    assert "<b>HUM</b>" in text


def test_seeds_are_told_where_they_are_of_the_same_pipeline(browser, restored):
    scores = read_json(restored.root / "reports/test.json")
    path = restored.root / "reports/seeds.json"
    for change, told in ((0.0, 1), (0.1, 0)):
        losses = {name: scores[name]["loss"] + change for name in MODELS}
        seeds = {
            seed: {name: {"accuracy": accuracy, "loss": losses[name]} for name in MODELS}
            for seed, accuracy in (("1", 0.5), ("2", 0.7))
        }
        write_json(path, seeds)
        restored.run("qc", "report")
        page = Page(browser, restored.root / "report/index.html").page
        assert page.inner_text("body").count("over 2 training seeds") == told
        assert page.inner_text("body").count("0.600\t0.141\t0.500\t0.700") == told * len(MODELS)
    path.unlink()


def test_a_suspected_leak_is_told_first_of_all(browser, restored):
    data = restored.root / "reports/data.json"
    data.write_text(data.read_text().replace('"leak_suspected": false', '"leak_suspected": true'))
    restored.run("qc", "report")
    page = Page(browser, restored.root / "report/index.html").page
    assert "A leak is suspected" in page.inner_text(".alarm")
    assert page.locator(".alarm").bounding_box()["y"] < page.locator("h2").first.bounding_box()["y"]


def test_a_missing_record_is_named_and_the_earlier_page_stays(report, restored):
    before = report.read_bytes()
    (restored.root / "plots/reliability.csv").unlink()
    said = restored.run("qc", "report", status=2)
    assert said.startswith("error: plots/reliability.csv: cannot be read")
    assert "`dvc repro` makes it anew" in said
    assert report.read_bytes() == before


def test_a_class_may_be_called_what_would_be_mathematics():
    names = ["$\\alpha$", "$x_$", "a^b", "50 $"]
    drawn = class_bars({"m": dict.fromkeys(names, 0.5)}, "F1")
    assert all(escape(name) in drawn for name in names)
    assert all(escape(name) in confusion_matrix([[1] * 4] * 4, names, "m") for name in names)
