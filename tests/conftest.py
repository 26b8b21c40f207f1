"""Fixtures that several test files share, and how pytest runs them.

Notable:
- `Project` (tests/project.py) is a small copy of this repository; `finished` is one whose pipeline ran, for tests that
  only read it, `restored` a copy of it to change, `project` one in which nothing ran yet
- commands of a project are forked by tests/fork_server.py, which spares them the import of the libraries
- tests/tiny.py makes questions and encoders, tests/faults.py damages files, tests/loopback.py runs servers
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import fork_server
from tests.faults import file_size_limit
from tests.loopback import free_port, serving
from tests.project import MARK, PROGRAMS, ROOT, STAGES, Project, outputs
from tests.tiny import (
    CLASSES,
    ENCODER_FILES,
    FAMILIES,
    FILLERS,
    VOCABULARY,
    label_lines,
    pin,
    write_encoder,
    write_record,
)  # fmt: skip

__all__ = [  # what test files import from here
    "CLASSES", "ENCODER_FILES", "FAMILIES", "FILLERS", "MARK", "ROOT", "STAGES", "VOCABULARY", "Project",
    "file_size_limit", "free_port", "in_soak", "label_lines", "outputs", "pin", "serving", "write_encoder",
    "write_record",
]  # fmt: skip

# The suite tries the same examples everywhere; `--hypothesis-profile search` tries others.
HOWEVER_SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=100, derandomize=True, **HOWEVER_SLOW)
settings.register_profile("search", max_examples=1000, print_blob=True, **HOWEVER_SLOW)

# The files that take longest, longest first: begun first, none is left to a lone process at the end.
LONG = [
    "portable", "encoders", "pipeline", "processes", "machines", "experiments", "sharing", "resume", "cluster",
    "fetching", "trust", "verify",
]  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: much of a test is waiting for processes of its own."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork server; the processes of xdist inherit the folder of its programs."""
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        config.add_cleanup(stack.close)
        folder = tempfile.TemporaryDirectory(prefix="qc-fork-server-", ignore_cleanup_errors=True)
        programs = stack.enter_context(fork_server.running(Path(stack.enter_context(folder))))
        os.environ[PROGRAMS] = str(programs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of LONG before the others."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))


def in_soak(cases: Iterable, but: object) -> list:
    """Cases of a test of which one runs in `make test`, and the others in `make soak`."""
    return [
        case if case == but else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.soak)
        for case in cases
    ]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline ran through once, in any of xdist's processes; to be read, not changed."""
    shared = Path(os.environ[PROGRAMS]).with_name(f"finished-{MARK}")
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            shared.mkdir()
            project = Project(shared)
            assert project.repro() == STAGES
            project.commit("first run")
    return Project(tmp_path_factory.mktemp(f"finished-{MARK}"), of=shared)


@pytest.fixture
def restored(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return finished.copy(tmp_path / f"copy-{MARK}" / "project")


@pytest.fixture
def here(finished: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project's folder, as the working directory."""
    monkeypatch.chdir(finished.root)
    return finished.root


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing ran yet."""
    return Project(tmp_path)
