"""What several test files share: a tiny encoder, questions that a tiny model can learn, and a copy of the project."""

import copy
import fcntl
import hashlib
import http.server
import json
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from transformers import CONFIG_MAPPING, AutoModel

from tests import fork_server

# The suite tries the same examples everywhere; `--hypothesis-profile search` tries others.
HOWEVER_SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=100, derandomize=True, **HOWEVER_SLOW)
settings.register_profile("search", max_examples=1000, print_blob=True, **HOWEVER_SLOW)

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"ABBR": "short", "DESC": "why", "HUM": "who", "LOC": "where", "NUM": "many"}
FILLERS = ["is", "the", "a", "of", "in", "dog", "cat", "tree", "house", "river", "king", "book", "?"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CLASSES.values(), *FILLERS]
SPECIAL_TOKENS = {
    "pad_token_id": "PAD",
    "bos_token_id": "CLS",
    "eos_token_id": "SEP",
    "cls_token_id": "CLS",
    "sep_token_id": "SEP",
}
TINY = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip
PROGRAMS = "QC_FORK_SERVER_PROGRAMS"  # names the folder of python, dvc and qc that ask the fork server
OUTPUTS = ("data", "models", "metrics", "plots", "reports")
STAGES = ["fetch", "tokenize", "split", "train_scratch", "train_prefix", "train_distilbert", "evaluate"]
# The files that take longest, longest first: begun first, none is left to a lone process at the end.
LONG = [
    "pipeline", "processes", "machines", "experiments", "sharing", "resume", "cluster", "fetching", "trust", "verify",
]  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: much of a test is waiting for processes of its own."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork server; the processes of xdist inherit the folder of its programs."""
    if not hasattr(config, "workerinput"):
        server = fork_server.running(Path(tempfile.mkdtemp(prefix="qc-fork-server-")))
        os.environ[PROGRAMS] = str(server.__enter__())
        config.add_cleanup(lambda: server.__exit__(None, None, None))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of LONG before the others."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))


def in_soak(cases: Iterable, but: object) -> list:
    """Cases of a test of which one runs in `make test`, and the others in `make soak`."""
    cases = {case: case if isinstance(case, tuple) else (case,) for case in cases}
    return [case if case == but else pytest.param(*values, marks=pytest.mark.soak) for case, values in cases.items()]


def label_lines(count: int, seed: int = 1) -> list[str]:
    """Questions whose class is the word they hold, anywhere."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        name = list(CLASSES)[number % len(CLASSES)]
        words = rng.choices(FILLERS, k=rng.randint(2, 9))
        words.insert(rng.randrange(len(words)), CLASSES[name])
        lines.append(f"{name}:fine{number % 2} {' '.join(words)}")
    return lines


FAMILIES = [
    "bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "deberta-v2", "modernbert",
    "nomic_bert", "ernie", "mobilebert", "albert",
]  # fmt: skip
PAD_AFTER_UNKNOWN = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their positions begin after the id of padding
# What makes a family what it is, beside its sizes.
FEATURES = {
    "distilbert": {"hidden_dim": 32},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True, "position_buckets": 4, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu",
    },
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
}  # fmt: skip


def write_encoder(
    folder: Path, seed: int = 0, vocabulary: list[str] | None = None, family: str = "bert", full_size: bool = False
) -> None:
    """A random encoder as encoders are published: 3 layers of 16, or of its family's own size."""
    torch.manual_seed(seed)
    vocabulary = list(vocabulary or VOCABULARY)
    if family in PAD_AFTER_UNKNOWN:
        vocabulary[:2] = "[UNK]", "[PAD]"
    special = {name: vocabulary.index(f"[{token}]") for name, token in SPECIAL_TOKENS.items()}
    sizes = {} if full_size else {**TINY, **FEATURES.get(family, {})}
    model = AutoModel.from_config(CONFIG_MAPPING[family](vocab_size=len(vocabulary), **sizes, **special))
    model.save_pretrained(folder)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": around("[CLS]", 2, "[SEP]", 3),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(vocabulary)},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_record(folder)


def around(before: str, before_id: int, after: str, after_id: int) -> dict:
    """A post-processor of tokenizer.json that puts a special token before and after each text."""
    template = [
        {"SpecialToken": {"id": before, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": after, "type_id": 0}},
    ]
    tokens = {before: before_id, after: after_id}
    return {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]} for token, number in tokens.items()
        },
    }


def write_record(folder: Path) -> None:
    """What the fetch stage says beside an encoder's files, that loading a model asks."""
    record = {"files": {name: pin(folder / name) for name in ENCODER_FILES}}
    (folder / "source.json").write_text(json.dumps(record))


def pin(path: Path) -> dict:
    """A file's entry in sources.yaml."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full: the system refuses to let a file grow past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on loopback, in threads of this process; its address is `url`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# In every folder's name and in what a machine knows of its user: nothing of it may be found in an output. It is not
# written out, since this file is copied into the projects that are searched.
MARK = "dekraM7qZ"[::-1]
MARKED = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SECRET", "USER", "LOGNAME", "HOSTNAME", "MAIL")
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Project:
    """A copy of this repository with tiny parameters, tiny data and a tiny encoder, under git and DVC."""

    def __init__(self, folder: Path, of: Path | None = None) -> None:
        """A new project in `folder`, or a copy of the one that is in the folder `of`."""
        self.root = folder / "project"
        self.mirror = folder / "mirror"
        self.programs = self.shared_programs()
        self.env = {
            **os.environ,
            **dict.fromkeys(MARKED, MARK),
            "PYTHONPATH": "src",  # below the project: its own code runs, not the installed one
            "QC_MIRROR": str(self.mirror),
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc-global"),
            "DVC_SITE_CACHE_DIR": str(folder / "dvc-site"),
        }
        if of:
            for path in (self.root, self.mirror):
                shutil.copytree(of / path.name, path, symlinks=True)
            return
        self._copy_repository()
        self._write_mirror()
        self.write_sources()
        self._write_params()
        self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "config", "user.email", "test@localhost")
        self.run("git", "config", "user.name", "test")
        self.commit("start")

    def _copy_repository(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            source = ROOT / name
            record = name == "dvc.lock" or name.startswith(("metrics/", "plots/", "reports/"))
            if source.is_file() and not record:
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())

    def _write_mirror(self) -> None:
        self.mirror.mkdir()
        (self.mirror / "tiny.label").write_text("".join(f"{line}\n" for line in label_lines(150)))
        (self.mirror / "official.label").write_text("".join(f"{line}\n" for line in label_lines(25, seed=2)))
        write_encoder(self.mirror / "tiny-bert")
        write_encoder(self.mirror / "tiny-distilbert", seed=1, family="distilbert")
        write_encoder(self.mirror / "tiny-mpnet", family="mpnet", vocabulary=[*VOCABULARY, "extra"])

    def write_sources(self) -> None:
        """Pin what the mirror holds."""
        sources = {
            "labels": {
                name: {**pin(self.mirror / name), "licence": "none", "urls": []}
                for name in ("tiny.label", "official.label")
            },
            "encoders": {
                name: {
                    "licence": "none",
                    "repository": f"nobody/{name}",
                    "revision": "0" * 40,
                    "files": {file: pin(self.mirror / name / file) for file in ENCODER_FILES},
                }
                for name in ("tiny-bert", "tiny-distilbert", "tiny-mpnet")
            },
        }  # fmt: skip
        (self.root / "data/sources.yaml").write_text(yaml.safe_dump(sources))

    def _write_params(self) -> None:
        self.set("max_length", 12)
        self.set("threads", 1)
        self.set("fetch.train", "tiny.label")
        self.set("fetch.encoders", "[tiny-bert]")
        self.set("train_scratch.tokenizer", "tiny-bert")
        for key in ("train_prefix", "train_distilbert"):
            self.set(f"{key}.encoder", "tiny-bert")
        for key in ("train_scratch", "train_prefix", "train_distilbert"):
            self.set(f"{key}.epochs", 2)
        for key, value in {"hidden_size": 16, "heads": 2, "ffn_size": 16, "layers": 1}.items():
            self.set(f"train_scratch.{key}", value)
        self.set("train_prefix.prefix_length", 2)
        self.set("train_prefix.prefix_layers", 2)
        self.set("train_distilbert.head_hidden_size", 8)
        self.set("train_distilbert.trainable_layers", 2)

    def at(self, root: Path) -> "Project":
        """This project's copy at `root`."""
        project = copy.copy(self)
        project.root = root
        return project

    def copy(self, root: Path) -> "Project":
        """A copy at `root` of all there is."""
        shutil.copytree(self.root, root, symlinks=True)
        return self.at(root)

    def clone(self, root: Path) -> "Project":
        """A clone at `root` of what is committed."""
        self.run("git", "clone", "--quiet", ".", str(root))
        return self.at(root)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    def set(self, key: str, value: object) -> None:
        """Change one value of params.yaml, in place, by line: comments stay."""
        *section, name = key.split(".")
        lines = self.params.read_text().splitlines()
        start = lines.index(f"{section[0]}:") + 1 if section else 0
        indent = "  " if section else ""
        index = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{indent}{name}:"))
        lines[index] = f"{indent}{name}: {value}"
        self.params.write_text("\n".join(lines) + "\n")

    @staticmethod
    def shared_programs() -> Path:
        """Folder of the programs that ask the fork server of this session."""
        return Path(os.environ[PROGRAMS])

    def forking(self) -> dict[str, str]:
        """Variables with which commands, and processes that torchrun starts, are forked by the server."""
        return {
            "PATH": f"{self.programs}{os.pathsep}{self.env['PATH']}",
            "PYTHON_EXEC": str(self.programs / "python"),
        }

    def run(self, *command: str, status: int = 0, **env: str) -> str:
        """Run a command in the project, forked where possible; its output, after checking its exit status."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.env, **self.forking(), **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == status, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @contextmanager
    def served_with(self, **environment: str) -> "Iterator[Project]":
        """This project with a fork server of its own, whose libraries are loaded with these variables."""
        with tempfile.TemporaryDirectory() as folder, fork_server.running(Path(folder), **environment) as programs:
            project = self.at(self.root)
            project.env, project.programs = {**self.env, **environment}, programs
            yield project

    def start(self, log: Path, *command: str, **env: str) -> subprocess.Popen:
        """Start a command in the project, in a session of its own, and let it run; it writes to `log`."""
        with log.open("w") as out:
            return subprocess.Popen(
                command, cwd=self.root, env={**self.env, **env}, stdout=out, stderr=out, start_new_session=True
            )

    def stage(self, name: str, status: int = 0, **env: str) -> str:
        """Run a stage as DVC would."""
        return self.run("python", "-m", f"stages.{name}", status=status, **env)

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; the stages whose command ran."""
        output = self.run("dvc", "repro", *arguments)
        return [name for name in STAGES if f"Running stage '{name}'" in output]

    def push_to(self, folder: Path) -> None:
        """Make a folder the remote, and push there; not committed yet."""
        self.run("dvc", "remote", "add", "--default", "storage", str(folder))
        self.run("dvc", "push")

    def leave_a_state(self, stage: str) -> None:
        """Run a stage as a user does until it has saved a state, and kill it."""
        process = self.start(Path(os.devnull), sys.executable, "-m", f"stages.{stage}")
        while not list(self.root.glob(f".state/{stage}/*/epoch-*.safetensors")):
            assert process.poll() is None
        process.kill()
        process.wait()

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)


def outputs(project: Project) -> dict[str, dict]:
    """Size and hash of every output of every stage."""
    paths = [path for name in OUTPUTS for path in (project.root / name).rglob("*")]
    return {str(path.relative_to(project.root)): pin(path) for path in paths if path.is_file()}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline ran through once, in any of xdist's processes. Tests that change it put it back."""
    shared = Path(os.environ[PROGRAMS]).with_name(f"finished-{MARK}")
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            shared.mkdir()
            project = Project(shared)
            assert project.repro() == STAGES
            project.commit("first run")
    return Project(tmp_path_factory.mktemp(f"finished-{MARK}"), of=shared)


def present(root: Path) -> dict[Path, tuple]:
    """What tells whether a file below `root` is still the same: git's and DVC's, too."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            about = path.lstat()
            changes = () if stat.S_ISDIR(about.st_mode) else (about.st_size, about.st_mtime_ns, about.st_ino)
            found[path.relative_to(root)] = (about.st_mode, *changes)
    return found


def put_back(root: Path, pristine: Path, before: dict[Path, tuple]) -> None:
    """Make everything below `root` what it was, from a copy of that."""
    after = present(root)
    for path in sorted(after.keys() - before.keys(), reverse=True):
        remove(root / path)
    for path in sorted(path for path in before if before[path] != after.get(path)):
        if not (pristine / path).exists():
            continue  # made by an earlier test that keeps it, such as the report
        if path in after:
            remove(root / path)
        if stat.S_ISDIR(before[path][0]):
            shutil.copytree(pristine / path, root / path, symlinks=True, dirs_exist_ok=True)
        elif not (root / path).exists():
            shutil.copy2(pristine / path, root / path, follow_symlinks=False)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def pristine(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project that no test changes."""
    return finished.copy(tmp_path_factory.mktemp(f"pristine-{MARK}") / "project").root


@pytest.fixture
def restored(finished: Project, pristine: Path) -> Iterator[Project]:
    """The finished project; everything that the test changed in it is put back."""
    before = present(finished.root)
    yield finished
    put_back(finished.root, pristine, before)


@pytest.fixture
def here(finished: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project's folder, as the working directory."""
    monkeypatch.chdir(finished.root)
    return finished.root


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing ran yet."""
    return Project(tmp_path)
