"""A server that has the libraries loaded and forks for every python, dvc, qc and torchrun of the tests.

Importing them takes 1 to 4 seconds a process, most of what the suite would wait for. `Project.run` puts small programs
of these four names first in PATH. Each hands its arguments, environment, folder and standard streams to the server, and
ends as the forked process ends. DVC finds them too when it starts a stage through a shell; `multiprocessing`'s
forkserver cannot serve it, since that forks only for the process that started it.

The server has not loaded the project's code, so a forked process imports that of the copy it runs in.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = [
    "celery.app.base", "configobj", "datasets", "dulwich.ignore", "dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud",
    "dvc.dirs", "dvc.repo.brancher", "dvc.repo.experiments.executor.local", "dvc.repo.experiments.queue.celery",
    "dvc.repo.experiments.show", "dvc.repo.graph", "dvc.repo.index", "dvc.repo.reproduce", "dvc.repo.trie",
    "dvc.stage.cache", "dvc.ui.table", "dvc_data.hashfile.db.local", "dvc_data.index.checkout",
    "huggingface_hub", "jinja2", "networkx", "optuna", "pyarrow.parquet", "pydantic.main",
    "pydantic.json_schema", "pygit2", "ruamel.yaml.mergevalue", "safetensors.torch", "scipy.special", "sklearn.dummy",
    "sklearn.feature_extraction.text", "sklearn.metrics", "sklearn.pipeline", "sklearn.svm", "tabulate", "tokenizers",
    "torch", "torch.distributed.launcher.api", "torch.nn.parallel", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.distilbert.modeling_distilbert",
]  # fmt: skip
PROGRAMS = {"python": [], "dvc": ["-m", "dvc"], "qc": ["-m", "qc"], "torchrun": ["-m", "torch.distributed.run"]}
AS_STAGES_SET = {"GOMP_SPINCOUNT": "600", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

# Run without site-packages, which takes a few hundredths of a second. A script gets an interpreter of its own.
CLIENT = """#!{python} -ISs
import json, os, signal, socket, sys

arguments = [*{prefix}, *sys.argv[1:]]
if not {{"-m", "-c"}} & {{*arguments[:2]}}:
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
with server.makefile("rw") as lines:
    print(json.dumps([{program!r}, arguments, dict(os.environ), os.getcwd()]), file=lines, flush=True)
    status = int(lines.readline())
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Run a server in an empty folder with a short path; gives the folder of the programs to put first in PATH."""
    address, programs = str(folder / "socket"), folder / "bin"
    programs.mkdir()
    for name, prefix in PROGRAMS.items():
        path = programs / name
        path.write_text(CLIENT.format(python=sys.executable, prefix=prefix, program=name, address=address))
        path.chmod(0o755)
    given = {**os.environ, **AS_STAGES_SET, "HOME": str(folder), "PYTHONPATH": ""}
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)  # who connects now waits until the libraries are loaded
    descriptor = listening.fileno()
    command = [sys.executable, __file__, str(descriptor)]
    process = subprocess.Popen(command, env=given, stdin=subprocess.DEVNULL, pass_fds=[descriptor])
    listening.close()
    try:
        yield programs
    finally:
        process.terminate()
        process.wait()


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks a process for each client."""

    max_children = 1000
    block_on_close = False
    parent = os.getppid()

    def service_actions(self) -> None:
        """Collect ended processes, and end when pytest was killed."""
        super().service_actions()
        if os.getppid() != self.parent:
            os._exit(1)


class Handler(socketserver.StreamRequestHandler):
    """Fork the process that a client asks for, and tell the client how it ended."""

    def handle(self) -> None:
        streams = socket.recv_fds(self.request, 1, 3)[1]
        program, arguments, environment, folder = json.loads(self.rfile.readline())
        process = os.fork()
        if process == 0:
            self.request.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            become(program, arguments, environment, folder)
        for stream in streams:
            os.close(stream)
        ready, _, _ = select.select([self.request, os.pidfd_open(process)], [], [])
        if self.request in ready:  # the client was killed
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with contextlib.suppress(OSError):
            self.wfile.write(f"{status}\n".encode())


def become(program: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Run `python -m MODULE` or `python -c CODE` in this process, and end it."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.path[0] = folder if program == "python" else str(Path(sys.executable).parent)
    sys.path[1:1] = [str(Path(folder, path)) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    importlib.invalidate_caches()
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        del arguments[0]
    option, code, *sys.argv[1:] = arguments
    status = 0
    try:
        if option == "-m":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = option
            exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        status = 1
        traceback.print_exc()
    with contextlib.suppress(Exception):
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status & 0xFF)


def serve(descriptor: int) -> None:
    """Load the libraries for the first client of a listening socket, fork for every client; does not return."""
    while not select.select([descriptor], [], [], 0.5)[0]:
        if os.getppid() != Server.parent:
            os._exit(1)
    for name in LIBRARIES:
        importlib.import_module(name)
    server = Server("", Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=descriptor)
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
