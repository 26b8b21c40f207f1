"""The Makefile: it says what is missing, in one line, before anything runs."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ROOT


def make(folder, *arguments, **env):
    return subprocess.run(
        [shutil.which("make"), "--no-print-directory", "-C", str(folder), *arguments],
        text=True,
        capture_output=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | env,  # not a sub-make
    )


def clone(tmp_path):
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, tmp_path)
    return tmp_path


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def errors(done):
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if not line.startswith("make: ")]


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ('test "$1" = -V && echo Python 3.8.1 || exit 1', ["Python 3.11 or newer is needed", "is Python 3.8.1"]),
        ('case "$2" in *ensurepip*) exit 1;; esac', ["python3-venv"]),
        (None, ["python not found"]),
    ],
)
def test_a_python_that_cannot_be_used_is_named_in_one_line(tmp_path, python, words):
    path = tmp_path / "python"
    if python:
        script(path, python)
    [line] = errors(make(clone(tmp_path), "run", f"PYTHON={path}"))
    assert line.startswith("error: ")
    assert all(word in line for word in words)
    assert not (tmp_path / ".venv").exists()


def with_environment(folder, of=None):
    """A clone whose environment is up to date, and empty; set up in the folder `of`, if that is another."""
    clone(folder)
    (folder / ".venv/bin").mkdir(parents=True)
    script(folder / ".venv/bin/pip", f"exec {of or folder}/.venv/bin/python")
    stamp = folder / ".venv/.ready"
    stamp.touch()
    os.utime(stamp, (2**31, 2**31))
    return folder


def recording_python(folder, log):
    """A Python whose venv and pip only write to a log what they were called with."""
    return script(
        folder / "python",
        f"""case "$*" in
            "-m venv"*)
                echo venv >> {log}
                mkdir -p .venv/bin
                printf '#!/bin/sh\\necho "$*" >> {log}\\n' > .venv/bin/python
                printf '#!/bin/sh\\n' > .venv/bin/ruff
                echo "#!$PWD/.venv/bin/python" > .venv/bin/pip
                chmod +x .venv/bin/*;;
            *) exec {sys.executable} "$@";;
        esac""",
    )


def test_an_up_to_date_environment_is_not_touched(tmp_path):
    folder = with_environment(tmp_path)
    script(folder / ".venv/bin/ruff", "echo ruff $1")
    done = make(folder, "lint")
    assert done.stdout.splitlines()[-2:] == ["ruff check", "ruff format"]
    assert "setting up" not in done.stdout


def test_a_browser_that_cannot_be_installed_is_named_in_one_line(tmp_path):
    folder = with_environment(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "grep", "id"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("apt-get", "sudo"):
        script(tools / name, "exit 1")
    done = make(folder, "test", f"PYTHON={sys.executable}", PATH=str(tools))
    assert errors(done) == ["error: chromium not found; install it (Debian: apt-get install chromium)"]
    assert "pytest" not in done.stdout


def test_two_makes_at_once_set_up_one_environment(tmp_path):
    folder, log = clone(tmp_path), tmp_path / "log"
    python = recording_python(tmp_path, log)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: make(folder, "lint", f"PYTHON={python}"), range(4)))
    assert [process.returncode for process in done] == [0] * 4, done
    assert sum("is ready" in process.stdout for process in done) == 1
    assert log.read_text().splitlines()[0] == "venv"
    assert len(log.read_text().splitlines()) == 3  # and two calls of pip


def test_the_environment_of_a_moved_or_copied_folder_is_set_up_again(tmp_path):
    folder, log = tmp_path / "moved to", tmp_path / "log"
    folder.mkdir()
    with_environment(folder, of=tmp_path / "project")
    (folder / ".venv/left").touch()
    python = recording_python(tmp_path, log)
    assert "setting up .venv" in make(folder, "lint", f"PYTHON={python}").stdout
    assert log.read_text().splitlines()[0] == "venv"
    assert not (folder / ".venv/left").exists()
    assert "setting up" not in make(folder, "lint", f"PYTHON={python}").stdout


def test_make_has_the_targets_that_the_readme_names():
    listed = make(ROOT, "help").stdout.splitlines()
    assert [line.split()[1] for line in listed] == ["help", "run", "test", "soak", "lint", "bench", "lock", "clean"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith("| `make` |"))
    assert set(re.findall(r"`(\w+)`", row)) == {"make", *(line.split()[1] for line in listed)}


def test_clean_removes_what_can_be_made_again_and_keeps_data_models_and_cache(tmp_path):
    folder = with_environment(tmp_path)
    gone = [".state/x", "report/index.html", "build/tools/x", "src/x.egg-info/x", "src/qc/__pycache__/x", "logs/x"]
    kept = ["data/raw/x", "models/scratch/x", ".dvc/cache/x", "metrics/x.json", "src/qc/x.py", "export/x", "tests/x.py"]
    for name in [*gone, *kept]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "stages").mkdir()
    (folder / "benchmarks").mkdir()
    assert make(folder, "clean").returncode == 0
    assert not (folder / ".venv").exists()
    assert [name for name in gone if (folder / name).exists()] == []
    assert [name for name in kept if not (folder / name).exists()] == []


def test_an_environment_that_is_a_link_is_ignored_by_git(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    (tmp_path / ".venv").symlink_to("/tmp")
    done = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "?? .gitignore\n"
