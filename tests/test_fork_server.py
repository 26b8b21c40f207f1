"""The fork server: its processes end as those of their own would, and are no others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project
from tests.project import PROGRAMS

FORKED = "import sys; print('torch' in sys.modules, [name for name in sys.modules if name.startswith('qc')])"


@pytest.fixture
def folder(tmp_path):
    """An empty folder, in which commands run as in a project."""
    project = object.__new__(Project)
    project.root, project.programs, project.env = tmp_path, Path(os.environ[PROGRAMS]), dict(os.environ)
    return project


def test_a_command_is_forked_with_the_libraries_but_without_the_projects_code(folder):
    assert folder.run("python", "-c", FORKED) == "True []\n"


@pytest.mark.parametrize(
    ("command", "variables"), [(["python"], {"LC_ALL": "C"}), (["sh", "-c", 'exec "$@"', "x", sys.executable], {})]
)
def test_other_variables_and_programs_before_it_take_a_process_of_its_own(folder, command, variables):
    assert folder.run(*command, "-c", FORKED, **variables) == "False []\n"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import atexit; atexit.register(print, 'end')", 0, "end\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ],
)
def test_a_command_ends_as_its_process_ends(folder, code, status, said):
    assert folder.run("python", "-c", code, status=status) == said
    assert folder.run("python", "-c", "1 / 0", status=1).endswith("ZeroDivisionError: division by zero\n")


def test_a_command_has_its_own_arguments_folder_environment_and_input(folder):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['GIVEN'], sys.stdin.read())"
    given = {**folder.env, **folder.forking(), "GIVEN": "x"}
    command = ["python", "-c", code, "a", "b c"]
    done = subprocess.run(command, cwd=folder.root, env=given, input="asked", capture_output=True, text=True)
    assert done.stdout == f"['-c', 'a', 'b c'] {folder.root} x asked\n"


def test_a_killed_command_takes_its_process_with_it(folder):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    command = subprocess.Popen([folder.programs / "python", "-c", code], stdout=subprocess.PIPE, text=True)
    process = psutil.Process(int(command.stdout.readline()))
    assert process.pid != command.pid
    command.kill()
    assert command.wait() == -signal.SIGKILL
    process.wait(60)
