"""The command `qc`, run from the top of the repository; not installed, it is `PYTHONPATH=src python -m qc`.

The module of a command, and the libraries that it needs, are imported only when the command is given.
"""

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qc.errors import QcError, escape_unprintable, explain, from_the_top
from qc.runtime.startup import check_process, handle_signals, set_environment


@dataclass(frozen=True)
class Command:
    """A command of `qc`."""

    summary: str
    time: str  # on 2 CPU cores with the default data
    extra: str = "pipeline"  # of pyproject.toml, that it needs; empty for none
    kept: str = "what it had begun is not kept, earlier files stay"  # where it is stopped
    loads_models: bool = False  # by transformers, which needs docstrings and memory


GOES_ON = "what is finished is kept, run the same command again to go on"
COMMANDS = {
    "predict": Command("classify texts with a trained model", "seconds", "", loads_models=True),
    "export": Command("write a trained model as an ONNX file", "half a minute", "export", loads_models=True),
    "check": Command("compare the metrics with those of a git revision", "seconds"),
    "preset": Command("list presets, or apply one to params.yaml", "a second"),
    "report": Command("write the last run as one HTML page", "seconds"),
    "experiments": Command("list experiments: their changes and accuracies", "seconds"),
    "seeds": Command("run the pipeline with some training seeds", "about 10 minutes", kept=GOES_ON),
    "cross-validate": Command("cross-validate settings of a model", "2 to 20 minutes", loads_models=True),
    "labels": Command("name the labels of the data that look wrong", "3 minutes", loads_models=True),
    "sweep": Command("search the parameters of the models", "about an hour", "sweep", GOES_ON, True),
    "verify": Command("rerun the last commit and compare every byte", "about 6 minutes"),
    "doctor": Command("check settings, environment, DVC's files and cache", "seconds"),
    "update-readme": Command("write the tables of the last run into README.md", "seconds"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stderr is None:  # closed by the shell
        sys.stderr = io.StringIO()
    if sys.stdout is None:
        print("error: standard output is closed; send it to a file", file=sys.stderr)
        return 2
    escape_unprintable()
    set_environment()
    name = parse_name(given)
    try:
        module = importlib.import_module(f"qc.commands.{name.replace('-', '_')}")
        parsed = parse_arguments(name, module, given[1:])
        if COMMANDS[name].loads_models:
            check_process()
        if (elsewhere := from_the_top()) and name != "predict":  # a model may be anywhere
            raise QcError(f"{Path.cwd()}: a subfolder of the project{elsewhere}")
        if arguments is None:
            check_place()
        handle_signals(COMMANDS[name].kept)
        status = module.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        extra = COMMANDS[name].extra
        wanted = f"'.[{extra}]'" if extra else "."
        print(f"error: qc {name} needs {error.name}; at the top of the project: pip install {wanted}", file=sys.stderr)
        return 2
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2


def parse_name(arguments: Sequence[str]) -> str:
    """Parse the name of the command; print the list of commands for --help."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="qc",
        usage="qc [-h] COMMAND ...",
        description="Everything besides running the pipeline, which `dvc repro` does.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {command.summary} ({command.time})" for name, command in COMMANDS.items())
        + "\n\n`qc COMMAND --help` describes a command. Exit status 2: an error, in one line.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser.parse_args(arguments[:1]).command


def parse_arguments(name: str, module: ModuleType, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command; options may stand between the others, and end at `--`."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"qc {name}",
        description=f"{module.__doc__ or command.summary}\nTakes {command.time}.",  # python -OO has no docstrings
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    if "--" not in arguments:
        return parser.parse_intermixed_args(arguments)
    end = arguments.index("--")  # what follows are texts, even where they look like options
    guarded = [f"\0{text}" for text in arguments[end + 1 :]]
    parsed = parser.parse_intermixed_args([*arguments[:end], *guarded])
    for key, value in vars(parsed).items():
        if isinstance(value, list):
            setattr(parsed, key, [item.removeprefix("\0") if isinstance(item, str) else item for item in value])
    return parsed


def check_place() -> None:
    """Refuse to run the code of one checkout on another, as the environment of a copied project would."""
    code = Path(__file__).resolve().parents[2]
    if code.samefile(".") or not all((folder / "dvc.yaml").is_file() for folder in (code, Path())):
        return
    raise QcError(
        f"this `qc` is the code of {code}, not that of the project here; `make run` sets up an environment here, and "
        "`PYTHONPATH=src python -m qc` runs the code here without one"
    )


if __name__ == "__main__":
    sys.exit(main())
