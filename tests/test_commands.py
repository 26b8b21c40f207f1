"""The Makefile: it says what is missing, in one line, before anything runs."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import ROOT


def make(folder, *arguments, **env):
    return subprocess.run(
        [shutil.which("make"), "--no-print-directory", "-C", str(folder), *arguments],
        text=True,
        capture_output=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | env,  # not a sub-make
    )


def clone(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def errors(done):
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if not line.startswith("make: ")]


def test_an_old_python_is_refused_in_one_line(tmp_path):
    old = script(tmp_path / "old-python", 'test "$1" = -V && echo Python 3.8.1 || exit 1')
    [line] = errors(make(clone(tmp_path), "run", f"PYTHON={old}"))
    assert line.startswith("error: Python 3.11 or newer is needed")
    assert "is Python 3.8.1" in line
    assert not (tmp_path / ".venv").exists()


def test_a_missing_python_is_named_in_one_line(tmp_path):
    [line] = errors(make(clone(tmp_path), "test", "PYTHON=no-such-python"))
    assert line.startswith("error: no-such-python not found")


def test_a_missing_venv_module_is_named_in_one_line(tmp_path):
    bare = script(tmp_path / "bare-python", 'case "$2" in *ensurepip*) exit 1;; esac')
    [line] = errors(make(clone(tmp_path), "run", f"PYTHON={bare}"))
    assert "python3-venv" in line


def with_environment(tmp_path):
    """A clone whose environment is up to date, and empty."""
    folder = clone(tmp_path)
    stamp = folder / ".venv/.ready"
    (folder / ".venv/bin").mkdir(parents=True)
    stamp.touch()
    os.utime(stamp, (2**31, 2**31))
    return folder


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
    for name in ("git", "id"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("apt-get", "sudo"):
        script(tools / name, "exit 1")
    done = make(folder, "test", f"PYTHON={sys.executable}", PATH=str(tools))
    assert errors(done) == ["error: chromium not found; install it (Debian: apt-get install chromium)"]
    assert "pytest" not in done.stdout


def test_the_gate_is_given_its_base_and_a_place_for_the_table(tmp_path):
    folder = with_environment(tmp_path)
    script(folder / ".venv/bin/qc", 'echo "qc $@"')
    assert make(folder, "check").stdout.splitlines()[-1] == "qc check"
    done = make(folder, "check", "BASE=HEAD", "MARKDOWN=check.md")
    assert done.stdout.splitlines()[-1] == "qc check --base HEAD --markdown check.md"
    assert make(folder, "check", "BASE=").stdout.splitlines()[-1] == "qc check"


def test_two_makes_at_once_set_up_one_environment(tmp_path):
    folder = clone(tmp_path)
    log = tmp_path / "log"
    python = script(
        tmp_path / "python",
        f"""case "$*" in
            "-m venv"*)
                echo venv >> {log}
                mkdir -p .venv/bin
                printf '#!/bin/sh\\necho "$*" >> {log}\\n' > .venv/bin/python
                printf '#!/bin/sh\\n' > .venv/bin/ruff
                chmod +x .venv/bin/*;;
            *) exec {sys.executable} "$@";;
        esac""",
    )
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: make(folder, "lint", f"PYTHON={python}"), range(4)))
    assert [each.returncode for each in done] == [0] * 4, done
    assert sum("is ready" in each.stdout for each in done) == 1
    assert log.read_text().splitlines()[0] == "venv"
    assert len(log.read_text().splitlines()) == 3  # and two calls of pip
