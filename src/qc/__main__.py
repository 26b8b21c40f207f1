"""The command `qc`, also `python -m qc`; run from the top of the repository.

What a command does, and imports, is in `qc.commands.NAME`, and loaded only when it is asked for.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from qc.errors import explain, print_anything


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    parsed = _parser().parse_args(arguments)
    print_anything()
    try:
        status = importlib.import_module(f"qc.commands.{parsed.command}").run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qc",
        description="Question classification, done right. Exit status 2: an error, told in a line.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    predict = commands.add_parser(
        "predict",
        help="tell the class of questions",
        description="Tell the class of questions: those named, or of a file, or of standard input, one a line.",
    )
    predict.add_argument("questions", nargs="*", metavar="QUESTION", help="a question, in quotes; - for standard input")
    predict.add_argument(
        "--file", type=Path, help="one question a line, or a .jsonl file of objects with a text; - for standard input"
    )
    predict.add_argument("--model", help="scratch, prefix or distilbert; default: the best on validation")
    predict.add_argument("--json", action="store_true", help="an object a line: text, label, probabilities")
    predict.add_argument("--top", type=int, default=1, metavar="K", help="show the K most probable classes")

    export = commands.add_parser(
        "export",
        help="write a trained model as an ONNX file",
        description="Write a trained model as an ONNX file with its tokenizer, and hold it against PyTorch on the "
        "validation split.",
    )
    export.add_argument("--model", required=True, help="scratch, prefix or distilbert")
    export.add_argument("--format", choices=["onnx"], default="onnx", help="the only one there is, and the default")
    export.add_argument("--int8", action="store_true", help="write one with 8-bit matrices too, and tell what it costs")
    export.add_argument(
        "--out", metavar="FOLDER", type=Path, help="default: export/MODEL; an earlier export is replaced"
    )

    check = commands.add_parser(
        "check",
        help="did metrics get worse?",
        description="Compare the working tree's scores with those of a git revision, by the rules under gate in "
        "params.yaml. Exit status: 0 holds, 1 regression, 2 cannot compare.",
    )
    check.add_argument("--base", metavar="REV", help="any git revision; default: the merge base with main")
    check.add_argument(
        "--split",
        choices=["valid", "test"],
        default="valid",
        help="whose scores; default: valid, since test questions that decide again and again are no test any more",
    )
    check.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too, as Markdown")

    preset = commands.add_parser(
        "preset",
        help="lay a named set of parameters over params.yaml",
        description="Lay presets/NAME.yaml over params.yaml; comments and order stay. "
        "`git checkout params.yaml` undoes it.",
    )
    which = preset.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="the preset")
    which.add_argument("--list", action="store_true", help="tell what presets there are")
    preset.add_argument("--dry-run", action="store_true", help="only print the difference")
    return parser


if __name__ == "__main__":
    sys.exit(main())
