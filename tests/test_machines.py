"""Machines that are short of something, or odd: the same bytes, or an error that says what is missing."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, STAGES, outputs
from tests.faults import AS_OTHERS, refused_clearly

pytestmark = pytest.mark.soak

NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
TURKISH = "tr_TR.UTF-8"  # where "I".lower() is another letter, for whoever asks the locale
ASCII_ALONE = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
def expected(finished):
    """What the default run of the small project wrote."""
    return outputs(finished)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished project that may be ruined."""
    yield finished.copy(tmp_path / "copy")
    subprocess.run(["chmod", "-R", "u+w", str(tmp_path)])


def test_an_odd_machine_gets_the_same_bytes(finished, tmp_path, expected):
    """No home, no locale, one core, files from a time to come, spaces, accents and 200 characters in the path."""
    project = finished.clone(tmp_path / f"pl\u00e4ce \u0130 {'x' * 200}")
    for path in project.root.rglob("*"):
        if ".git" not in path.parts and path.is_file():
            os.utime(path, (2**32, 2**32))
    project.env = {name: value for name, value in project.env.items() if name not in ("HOME", "USER", "LANG")}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        told = project.run("dvc", "repro", "--force", LANG="C", LC_ALL="C")
    finally:
        os.sched_setaffinity(0, cores)
    assert all(f"Running stage '{stage}'" in told for stage in STAGES)
    assert outputs(project) == expected
    assert project.run("git", "status", "--porcelain") == ""


def test_where_nothing_but_ascii_can_be_printed_all_works(copied, expected):
    for stage in STAGES:
        copied.stage(stage, **ASCII_ALONE)
    assert outputs(copied) == expected
    question = "O\u00f9 est le caf\u00e9 ?"
    (copied.root / "questions.txt").write_text(question, encoding="utf-8")
    said = copied.run("qc", "predict", "--json", "--file", "questions.txt", **ASCII_ALONE)
    assert json.loads(said)["text"] == question
    assert "O\\xf9 est le caf\\xe9 ?" in copied.run("qc", "predict", "--file", "questions.txt", **ASCII_ALONE)


def test_a_turkish_locale_changes_no_byte(copied, tmp_path, expected):
    if subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", str(tmp_path / TURKISH)]).returncode:
        pytest.skip("localedef cannot make the locale here")
    where = {"LOCPATH": str(tmp_path), "LC_ALL": TURKISH}
    assert (
        copied.run(sys.executable, "-c", "import locale as l; print(l.setlocale(l.LC_ALL, ''))", **where)
        == f"{TURKISH}\n"
    )
    for stage in ("tokenize", "split", "train_scratch", "evaluate"):
        copied.stage(stage, **where)
    assert outputs(copied) == expected


def test_an_experiment_needs_no_git_identity(copied):
    for key in ("user.name", "user.email"):
        copied.run("git", "config", "--unset", key)
    copied.run("dvc", "exp", "run", "--name", "nobodys", "-S", "train_scratch.epochs=1")
    assert "nobodys" in copied.run("dvc", "exp", "list", "--name-only")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("doctor --quick", 1, "environment: this folder is no git repository"),
        ("doctor", 1, "cache and outputs: "),
        ("experiments", 2, "error: "),
        ("verify", 2, "error: the last commit is what is verified, and git finds none here"),
        ("seeds 1 2", 2, "error: `dvc exp list --name-only` failed, see above"),
    ],
)
def test_a_copy_without_git_says_what_to_do(copied, command, status, said):
    shutil.rmtree(copied.root / ".git")
    printed = copied.run("qc", *command.split(), status=status, GIT_CEILING_DIRECTORIES=str(copied.root.parent))
    assert said in printed
    assert "Traceback" not in printed
    if command.startswith("doctor"):
        assert "git init && git add --all && git commit" in printed
    copied.run("git", "init", "--quiet")  # without a commit
    if command in ("experiments", "verify"):
        assert "Traceback" not in copied.run("qc", command, status=2)


def test_python_without_docstrings_is_refused_in_one_line(copied):
    said = copied.run(sys.executable, "-OO", "-m", "stages.train_prefix", status=1)
    assert said == (
        "error: transformers needs docstrings, which PYTHONOPTIMIZE=2 and python -OO remove; unset it, or use 1\n"
    )


def test_the_table_of_the_readme_is_whole_or_as_it_was_on_a_full_disk(copied):
    readme = copied.root / "README.md"
    scores = json.loads((copied.root / "reports/test.json").read_text())
    names = ("scratch", "prefix", "distilbert")
    scores = {name: {"accuracy": 0.5, "valid_accuracy": 0.5, "loss": scores[name]["loss"]} for name in names}
    (copied.root / "reports/seeds.json").write_text(json.dumps(dict.fromkeys("12", scores)))
    before = readme.read_text()
    shell = f"ulimit -f 4; exec {sys.executable} -m qc update-readme"  # 2 or 4 KiB, by the shell
    said = copied.run("sh", "-c", shell, status=2)
    assert said.startswith("error: README.md: cannot be written: File too large; what was there stays")
    assert readme.read_text() == before
    said = copied.run("qc", "update-readme")
    assert "README.md: written" in said and "docs/evaluation.md: written" in said
    assert "trained parameters" in readme.read_text()
    assert "over seeds 1, 2" in (copied.root / "docs/evaluation.md").read_text()


def test_without_a_network_all_that_is_cached_comes_back_and_changes_are_trained(copied, expected):
    offline = {"QC_MIRROR": "", **dict.fromkeys(("HF_ENDPOINT", "http_proxy", "https_proxy"), "http://127.0.0.1:9")}
    for name in ("data/tokenized", "data/split", "models", "metrics", "plots", "reports"):
        shutil.rmtree(copied.root / name)
    copied.run("dvc", "repro", **offline)
    assert outputs(copied) == expected
    copied.set("train_scratch.epochs", 1)
    assert "Running stage 'train_scratch'" in copied.run("dvc", "repro", **offline)


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("train_prefix", "train_distilbert")])
def test_what_may_not_be_written_is_said_and_reading_goes_on(copied, stage, expected):
    subprocess.run(["chmod", "-R", "a-w", str(copied.root)], check=True)
    told = copied.run(*AS_OTHERS, sys.executable, "-m", f"stages.{stage}", status=1)
    assert refused_clearly(told)
    assert "Permission denied" in told
    assert outputs(copied) == expected
    if stage == "evaluate":
        assert copied.run(*AS_OTHERS, "qc", "predict", "who ?")
        assert "metrics gate on valid: holds" in copied.run(*AS_OTHERS, "qc", "check", "--base", "HEAD")


def run_on_a_full_disk(place):
    """Mount a small disk, copy the working directory there, fill it, run each stage, then make room.

    Runs in a namespace of its own; prints what each stage said, and what was left.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    shutil.copytree(".", place, symlinks=True, dirs_exist_ok=True)
    os.chdir(place)
    before = {str(path) for path in Path().rglob("*")}
    filler = Path("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    needed, aside = Path("data/encoders/tiny-bert/tokenizer.json"), Path("tokenizer.json")
    needed.rename(aside)  # for fetch to bring
    told = {"fetch": said("python", "-m", "stages.fetch")}
    aside.rename(needed)
    told |= {stage: said("python", "-m", f"stages.{stage}") for stage in STAGES[1:]}
    filler.unlink()
    left = {str(path) for path in Path().rglob("*")} - before
    left = sorted(path for path in left if "__pycache__" not in path and not path.startswith(".state"))
    print(
        json.dumps({"told": told, "left": left, "repro": said("dvc", "repro"), "status": said("git", "status", "-s")})
    )


def said(*command):
    """Exit status and output of a command."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def test_a_full_disk_is_named_by_every_stage_and_leaves_what_was_there(finished, tmp_path):
    if subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    (tmp_path / "disk").mkdir()
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.test_machines import run_on_a_full_disk;"
        f"run_on_a_full_disk({str(tmp_path / 'disk')!r})"
    )
    seen = json.loads(finished.run(*NAMESPACE, sys.executable, "-c", script).splitlines()[-1])
    for stage, (status, told) in seen["told"].items():
        assert status == 1, (stage, told)
        assert refused_clearly(told), told
        assert "No space left on device" in told, told
    assert seen["left"] == []
    assert seen["repro"][0] == 0, seen["repro"]
    assert seen["status"] == [0, ""]


def limited(project, stage, mebibytes):
    """A stage in a shell that allows so much memory; what it says."""
    shell = f"ulimit -v {mebibytes * 1024}; exec {sys.executable} -m stages.{stage}"
    return project.run("sh", "-c", shell, status=1)


def test_too_little_memory_is_said_with_what_takes_less(copied, expected):
    told = limited(copied, "train_scratch", 1024)
    assert told == (
        "error: 2,048 MiB of memory are the least that the libraries need; raise the limit in this shell: ulimit -v "
        "unlimited\nnote: `ulimit -v` allows 1,024 MiB of memory here\n"
    )
    copied.set("train_scratch.ffn_size", 80_000_000)
    told = limited(copied, "train_scratch", 4096)
    assert "error: not enough memory: " in told
    assert "a smaller batch_size, max_length or cache_memory in params.yaml takes less" in told
    assert "`ulimit -v` allows 4,096 MiB" in told
    assert refused_clearly(told)
    assert outputs(copied) == expected
