"""The command `qc`, also `python -m qc`; run from the top of the repository.

The module of a command, and the libraries that it needs, are imported only when the command is given.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from qc.errors import escape_unprintable, explain
from qc.runtime.startup import handle_signals, set_environment


@dataclass(frozen=True)
class Command:
    """A command of `qc`.

    Attributes:
        summary: What it does.
        time: What it costs on 2 CPU cores with the default data.
        extra: The extra of `pip install qc[...]` that it needs; empty for none.
    """

    summary: str
    time: str
    extra: str = "pipeline"


COMMANDS = {
    "predict": Command("classify texts with a trained model", "seconds", ""),
    "export": Command("write a trained model as an ONNX file", "half a minute", "export"),
    "check": Command("compare the metrics with those of a git revision", "a second"),
    "preset": Command("list presets, or apply one to params.yaml", "a second"),
    "report": Command("write the last run as one HTML page", "seconds"),
    "experiments": Command("list experiments: what changed, validation and test accuracy", "seconds"),
    "seeds": Command("run the pipeline with several training seeds", "about 10 minutes"),
    "cross-validate": Command("score settings of a model by cross-validation", "2 to 20 minutes"),
    "labels": Command("name the labels of the data that look wrong", "3 minutes"),
    "sweep": Command("search the parameters of the models", "about an hour", "sweep"),
    "verify": Command("run the last commit from nothing and compare every byte", "about 6 minutes"),
    "doctor": Command("check settings, environment, DVC's files and its cache", "seconds"),
    "update-readme": Command("write the tables of the last run into README.md", "a second"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    escape_unprintable()
    set_environment()
    name = arguments[0] if arguments else ""
    try:
        module = importlib.import_module(f"qc.commands.{name.replace('-', '_')}") if name in COMMANDS else None
        parsed = _parser(name, module).parse_args(arguments)
        handle_signals()
        status = module.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        extra = COMMANDS[name].extra
        print(f"error: qc {name} needs {error.name}; install it: pip install 'qc[{extra}]'", file=sys.stderr)
        return 2
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2


def _parser(chosen: str, module: object) -> argparse.ArgumentParser:
    """Build the parser; only the chosen command has its arguments."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="qc",
        usage="qc [-h] COMMAND ...",
        description="Everything besides running the pipeline, which `dvc repro` does.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {command.summary} ({command.time})" for name, command in COMMANDS.items())
        + "\n\n`qc COMMAND --help` describes a command. Exit status 2 is an error, reported in one line.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        description = f"{module.__doc__}\nTakes {command.time}." if name == chosen else command.summary
        sub = commands.add_parser(
            name, prog=f"qc {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == chosen:
            module.add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
