"""A server that has the libraries loaded, and forks for every stage and command that a test runs to its end.

Most of what the suite waits for would be imports: 1 to 3 seconds for each call of `dvc`, `qc` and a stage. Instead,
`Project.run` puts small programs called python, dvc, qc and torchrun first in PATH. Each hands its arguments,
environment, folder and open files to the server, and ends as the forked process ends. The code of the project is not
loaded in the server, so the process imports that of the copy it runs in.

What a forked process could do differently has a process of its own: other arguments, another user, other limits or
namespaces, environment variables that libraries read while they are loaded. So has what a test starts to watch or kill.
"""

import atexit
import contextlib
import importlib
import marshal
import os
import re
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

LIBRARIES = [
    "celery.app.base", "configobj", "datasets", "dulwich.ignore", "dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud",
    "dvc.dirs", "dvc.repo.brancher", "dvc.repo.experiments.executor.local", "dvc.repo.experiments.queue.celery",
    "dvc.repo.experiments.show", "dvc.repo.graph", "dvc.repo.index", "dvc.repo.reproduce", "dvc.repo.trie",
    "dvc.stage.cache", "dvc.ui.table", "dvc_data.hashfile.db.local", "dvc_data.index.checkout", "dvclive",
    "huggingface_hub", "jinja2", "matplotlib.figure", "networkx", "optuna", "pyarrow.parquet", "pydantic.main",
    "pydantic.json_schema", "pygit2", "ruamel.yaml.mergevalue", "safetensors.torch", "scipy.special", "sklearn.dummy",
    "sklearn.feature_extraction.text", "sklearn.metrics", "sklearn.pipeline", "sklearn.svm", "tabulate", "tokenizers",
    "torch", "torch.distributed.run", "torch.nn.parallel", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.distilbert.modeling_distilbert",
]  # fmt: skip
PROGRAMS = {"python": "", "dvc": "dvc.cli", "qc": "qc.__main__", "torchrun": "torch.distributed.run"}
READ_WHILE_LOADING = re.compile(
    r"(ATEN|CUDA|DNNL|GOMP|HF|HUGGINGFACE|LANG|LC|LD|MALLOC|MKL|OMP|ONEDNN|OPENBLAS|TORCH|TRANSFORMERS|TZ)(_|$)|LOCPATH|PYTHON"
)
ENVIRONMENT = {"GOMP_SPINCOUNT": "600", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}  # as a stage sets it
READ_LATER = ("HF_TOKEN", "OMP_NUM_THREADS", "PYTHONPATH", "PYTHON_EXEC", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)

# Run by an interpreter without site-packages, which takes a hundredth of a second to start.
CLIENT = """#!{python} -ISs
import _socket, marshal, os, resource, signal, struct, sys

program, address = os.path.basename(sys.argv[0]), {address!r}
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
try:
    server.connect(address)
    umask = os.umask(0)
    os.umask(umask)  # there is no other way to ask for it
    asked = marshal.dumps((program, sys.argv[1:], dict(os.environ), os.getcwd(), umask, {state}))
    files = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("3i", 0, 1, 2))]
    server.sendmsg([struct.pack("q", len(asked))], files)
    server.sendall(asked)
    answer = server.recv(8)
except OSError:
    answer = b""
process = struct.unpack("q", answer)[0] if len(answer) == 8 else 0
if not process:
    real = {python!r} if program == "python" else {scripts!r} + "/" + program
    os.execv(real, [real, *sys.argv[1:]])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = struct.unpack("q", server.recv(8))[0]
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""
# What a process gets from the one that starts it, besides arguments, environment, folder and files.
STATE = (
    "[[os.readlink('/proc/self/ns/' + name) for name in ('mnt', 'net', 'user', 'pid')], os.getresuid(), "
    "[line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNewPrivs'))], "
    f"[resource.getrlimit(limit) for limit in {LIMITS}], sorted(os.sched_getaffinity(0))]"
)


@contextlib.contextmanager
def running(folder: Path, **given: str) -> Iterator[Path]:
    """Run a server in `folder`; gives the folder of the programs to put first in PATH.

    Args:
        folder: An empty folder with a short path.
        given: Environment variables that the libraries are to be loaded with.
    """
    address, programs = str(folder / "socket"), folder / "bin"
    programs.mkdir()
    scripts = Path(sys.executable).parent
    for name in PROGRAMS:
        path = programs / name
        path.write_text(CLIENT.format(python=sys.executable, scripts=str(scripts), address=address, state=STATE))
        path.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {**ENVIRONMENT, **given, "HOME": str(folder)}
    process = subprocess.Popen([sys.executable, __file__, address], env=environment, stdin=subprocess.DEVNULL)
    try:
        yield programs
    finally:
        process.terminate()
        process.wait()


def serve(address: str) -> None:
    """Load the libraries, then fork for every client; does not return."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system removes ended processes
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(client)
        client.close()


def answer(client: socket.socket) -> None:
    """Read what a client asks, fork the process that runs it, and tell the client how it ended."""
    first, files, _, _ = socket.recv_fds(client, 8, 3)
    size, content = struct.unpack("q", first)[0], b""
    while len(content) < size:
        content += client.recv(size - len(content))
    program, arguments, environment, folder, umask, state = marshal.loads(content)
    if not (state == eval(STATE) and can_run(program, arguments, environment)):
        client.send(struct.pack("q", 0))
        os._exit(0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    process = os.fork()
    if process == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        client.close()
        os.close(woken)
        os.close(wake)
        os.umask(umask)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        run(program, arguments, environment, folder)
    for file in files:
        os.close(file)
    client.send(struct.pack("q", process))
    while True:
        ready, _, _ = select.select([client, woken], [], [])
        if client in ready:  # the client was killed
            os.kill(process, signal.SIGKILL)
            os._exit(0)
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            client.send(struct.pack("q", os.waitstatus_to_exitcode(status)))
            os._exit(0)
        os.read(woken, 64)


def can_run(program: str, arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether a forked process does the same as one of its own."""
    if program == "python":
        arguments = arguments[1:] if arguments[:1] == ["-u"] else arguments
        if not (
            arguments[:1] == ["-c"]
            or (arguments[:1] == ["-m"] and arguments[1].startswith(("benchmarks.", "stages.", "qc")))
        ):
            return False
    return libraries_environment(environment) == LOADED_WITH


def libraries_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read while they are loaded."""
    return {
        name: value
        for name, value in environment.items()
        if READ_WHILE_LOADING.match(name) and name not in (*READ_LATER, *ENVIRONMENT)
    }


def run(program: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Become the process of a command; does not return."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path[0] = folder if program == "python" else str(Path(sys.executable).parent)
    sys.path[1:1] = [str(Path(folder, path)) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    importlib.invalidate_caches()
    status = 1
    try:
        if program == "python":
            if arguments[0] == "-u":
                sys.stdout.reconfigure(write_through=True)
                del arguments[0]
            option, code, *rest = arguments
            sys.argv = [code if option == "-m" else option, *rest]
            if option == "-m":
                runpy.run_module(code, run_name="__main__", alter_sys=True)
            else:
                sys.modules["__main__"] = types.ModuleType("__main__")
                exec(code, vars(sys.modules["__main__"]))
            status = 0
        else:
            module = importlib.import_module(PROGRAMS[program])
            sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
            status = module.main() or 0
    except SystemExit as end:
        status = end.code
        if not isinstance(status, int):
            if status is not None:
                print(status, file=sys.stderr)
            status = 0 if status is None else 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(Exception):
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    LOADED_WITH = libraries_environment(os.environ)  # before libraries change it
    serve(sys.argv[1])
