"""The fork server: its processes are as those of their own, or are left to be that."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import Project

FORKED = "import sys; print('torch' in sys.modules)"


@pytest.fixture
def run(tmp_path):
    """Run a command in an empty folder as `Project.run` does; what subprocess has of it."""
    project = object.__new__(Project)
    project.root, project.programs, project.env = tmp_path, Project.shared_programs(), dict(os.environ)

    def run(*command, **environment):
        given = {**project.env, **project.forking(), **environment}
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, input="asked\n")

    return run


def test_a_command_is_forked_with_the_libraries_but_without_the_projects_code(run):
    assert run("python", "-c", FORKED).stdout == "True\n"
    assert run("python", "-c", "import sys; print([m for m in sys.modules if m.startswith('qc')])").stdout == "[]\n"


@pytest.mark.parametrize("name", ["LC_ALL", "HF_ENDPOINT", "OMP_PROC_BIND", "MKL_CBWR", "PYTHONHASHSEED"])
def test_what_libraries_read_while_they_are_loaded_takes_a_process_of_its_own(run, name):
    assert run("python", "-c", FORKED, **{name: "1"}).stdout == "False\n"


@pytest.mark.parametrize(
    "prefix",
    [["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))], ["sh", "-c", 'ulimit -n 500; exec "$@"', "x"]],
)
def test_other_limits_take_a_process_of_its_own(run, prefix):
    assert run(*prefix, "python", "-c", FORKED).stdout == "False\n"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
    ],
)
def test_a_command_ends_as_its_process_ends(run, code, status, error):
    done = run("python", "-c", code)
    assert (done.returncode, done.stderr) == (status, error)
    assert run("python", "-c", "1 / 0").stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_command_has_its_own_arguments_folder_environment_and_files(run, tmp_path):
    code = (
        "import atexit, os, sys; atexit.register(print, 'end'); os.mkdir('made', 0o777); "
        "print(sys.argv, sys.path[0] in ('', os.getcwd()), os.getcwd(), os.environ['GIVEN'], sys.stdin.read())"
    )
    umask = os.umask(0o027)
    try:
        said = run("python", "-c", code, "a", "b c", GIVEN="x").stdout
    finally:
        os.umask(umask)
    assert said == f"['-c', 'a', 'b c'] True {tmp_path} x asked\n\nend\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750


def test_a_killed_command_takes_its_process_with_it_and_a_signal_is_handed_on(tmp_path):
    programs = Project.shared_programs()
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        command = subprocess.Popen([programs / "python", "-c", code], stdout=subprocess.PIPE, text=True)
        process = psutil.Process(int(command.stdout.readline()))
        assert process.pid != command.pid
        assert process.cmdline()[0] == sys.executable
        command.send_signal(number)
        assert command.wait() == -number
        deadline = time.monotonic() + 60
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
