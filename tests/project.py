"""A small project that is run for real: this repository's code with tiny data, under git and DVC."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from qc.questions.labels import UNKNOWN
from qc.questions.tables import QuestionTable
from tests import fork_server
from tests.tiny import ENCODER_FILES, VOCABULARY, label_lines, pin, write_encoder

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = "QC_FORK_SERVER_PROGRAMS"  # names the folder of the programs that ask the fork server
OUTPUTS = ("data", "models", "metrics", "plots", "reports")
STAGES = ["fetch", "tokenize", "split", "train_scratch", "train_prefix", "train_distilbert", "evaluate"]
TRAINING = STAGES[3:6]
# In every folder's name and in what a machine knows of its user: nothing of it may be found in an output. It is not
# written out, since this file is copied into the projects that are searched.
MARK = "dekraM7qZ"[::-1]
MARKED = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SECRET", "USER", "LOGNAME", "HOSTNAME", "MAIL")
TINY_PARAMS = {
    "max_length": 12,
    "threads": 1,
    "fetch.train": "tiny.label",
    "fetch.encoders": "[tiny-bert]",
    "train_scratch.tokenizer": "tiny-bert",
    "train_scratch.hidden_size": 16,
    "train_scratch.heads": 2,
    "train_scratch.ffn_size": 16,
    "train_scratch.layers": 1,
    "train_prefix.encoder": "tiny-bert",
    "train_prefix.prefix_length": 2,
    "train_prefix.prefix_layers": 2,
    "train_distilbert.encoder": "tiny-bert",
    "train_distilbert.head_hidden_size": 8,
    "train_distilbert.trainable_layers": 2,
    **{f"{name}.epochs": 2 for name in TRAINING},
}


class Project:
    """A copy of this repository with tiny parameters, tiny data and a tiny encoder, under git and DVC."""

    def __init__(self, folder: Path, of: Path | None = None) -> None:
        """A new project in `folder`, or a copy of the one that is in the folder `of`."""
        self.root = folder / "project"
        self.mirror = folder / "mirror"
        self.programs = Path(os.environ[PROGRAMS])
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
        for name in tracked_files():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        self.mirror.mkdir()
        for name, lines in (("tiny.label", label_lines(150)), ("official.label", label_lines(25, seed=2))):
            (self.mirror / name).write_text("".join(f"{line}\n" for line in lines))
        write_encoder(self.mirror / "tiny-bert")
        write_encoder(self.mirror / "tiny-distilbert", seed=1, family="distilbert")
        write_encoder(self.mirror / "tiny-mpnet", family="mpnet", vocabulary=[*VOCABULARY, "extra"])
        self.write_sources()
        for key, value in TINY_PARAMS.items():
            self.set(key, value)
        self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "config", "user.email", "test@localhost")
        self.run("git", "config", "user.name", "test")
        self.commit("start")

    def write_sources(self) -> None:
        """Pin what the mirror holds."""
        labels, encoders = sorted(self.mirror.glob("*.label")), sorted(self.mirror.glob("tiny-*"))
        hub = {"licence": "none", "revision": "0" * 40}
        sources = {
            "labels": {path.name: {**pin(path), "licence": "none", "urls": []} for path in labels},
            "encoders": {
                path.name: {
                    **hub,
                    "repository": f"nobody/{path.name}",
                    "files": {name: pin(path / name) for name in ENCODER_FILES},
                }
                for path in encoders
            },
        }
        (self.root / "data/sources.yaml").write_text(yaml.safe_dump(sources))

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

    def questions(self, file: str = "data/tokenized/tiny-bert/questions.parquet") -> list[dict]:
        """Rows of a table of questions; coarse and fine are the names of the classes, of an unknown one the empty."""
        table = QuestionTable.read(self.root / file)
        rows, names = table.columns.to_pylist(), table.class_names
        for row in rows:
            known = row.get("fine", UNKNOWN) != UNKNOWN
            row["coarse"] = names.classes[row["label"]]
            row["fine"] = names.fine_classes[row["fine"]][1] if known else ""
        return rows

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

    def forking(self) -> dict[str, str]:
        """Variables with which commands, and processes that torchrun starts, are forked by the server."""
        return {
            "PATH": f"{self.programs}{os.pathsep}{self.env['PATH']}",
            "PYTHON_EXEC": str(self.programs / "python"),
        }

    def run(self, *command: str, status: int = 0, **env: str) -> str:
        """Run a command in the project; its output, after checking its exit status.

        A program of the fork server is forked, and what it starts, unless it has variables of its own, which libraries
        may read while they are loaded. What another program starts may have other rights or limits, so it is not.
        """
        forked = command[0] in (*fork_server.PROGRAMS, sys.executable) and not env
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.env, **(self.forking() if forked else env)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == status, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

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

    def leave_a_checkpoint(self, stage: str) -> None:
        """Run a stage as a user does until it has saved a checkpoint, and kill it."""
        process = self.start(Path(os.devnull), sys.executable, "-m", f"stages.{stage}")
        while not list(self.root.glob(f".state/{stage}/*/epoch-*.safetensors")):
            assert process.poll() is None
        process.kill()
        process.wait()

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)


def tracked_files() -> list[str]:
    """The repository's files, those that are not added yet too, without the record of a run."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    record = ("dvc.lock", "metrics/", "plots/", "reports/")
    return [name for name in listed if (ROOT / name).is_file() and not name.startswith(record)]


def outputs(project: Project) -> dict[str, dict]:
    """Size and hash of every output of every stage."""
    paths = [path for name in OUTPUTS for path in (project.root / name).rglob("*")]
    return {str(path.relative_to(project.root)): pin(path) for path in paths if path.is_file()}
