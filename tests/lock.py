"""Resolve pyproject.toml into the lock files: `make lock`.

pip resolves against its default index alone. Other indexes, folders of wheels and constraints of this machine are left
out: a CPU build of torch in one of them would hide the CUDA packages.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

NAME = "question-classification"
RUN = "pipeline,export,sweep"  # the extras that stages and commands need
CUDA = re.compile(r"(cuda|nvidia|triton)(?!-ml-py)")  # nvidia-ml-py is installed everywhere
OTHERS = {"requirements-dev.txt": ['PyYAML-ft==8.0.0; python_version == "3.13"']}  # by libcst, on that Python alone
HEADERS = {
    "requirements.txt": f"What the stages and commands run with: every package of `pip install .[{RUN}]`, as pip "
    "resolved pyproject.toml.",
    "requirements-dev.txt": "What the tests and tools take besides.",
    "requirements-cuda.txt": "Constraints for pip: they act where it takes torch's CUDA build; a CPU build asks for "
    "none of them. Resolved on Linux against the package index alone.",
}


def resolve(wanted: str, constraints: list[str], folder: str) -> dict[str, str]:
    """Resolve `.[wanted]` under constraints by pip's dry run; version by package.

    A new pip in `folder` does it: it reads the metadata of wheels without downloading them.
    """
    pip = f"{folder}/bin/pip"
    if not Path(pip).exists():
        venv.create(folder, with_pip=True)
        subprocess.run([pip, "install", "--quiet", "--upgrade", "pip"], check=True)
    command = [pip, "--isolated", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    for path in constraints:
        command += ["--constraint", path]
    alone = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run([*command, f".[{wanted}]"], env=alone, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("error: make lock: pip cannot resolve pyproject.toml, see above; the lock files stay as they were")
    packages = (package["metadata"] for package in json.loads(done.stdout)["install"])
    return {package["name"]: package["version"] for package in packages if package["name"] != NAME}


def main() -> None:
    """Write the three files; the tools take the versions of the stages, or pip refuses."""
    print("resolving pyproject.toml against the package index alone (about two minutes)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run = resolve(RUN, [], folder)
        locked = Path(folder, "run.txt")
        locked.write_text("".join(f"{name}=={version}\n" for name, version in run.items()))
        tools = resolve("dev", [str(locked)], folder)
    cuda = {name for name in run if CUDA.match(name)}
    files = {
        "requirements.txt": run.keys() - cuda,
        "requirements-dev.txt": tools.keys() - run.keys(),
        "requirements-cuda.txt": cuda,
    }
    for file, names in files.items():
        marker = '; platform_system == "Linux"' if names is cuda else ""
        pins = [f"{name}=={tools[name]}{marker}" for name in names]
        lines = sorted([*pins, *OTHERS.get(file, [])], key=str.upper)
        Path(file).write_text("\n".join([f"# {HEADERS[file]} Made by: make lock", *lines, ""]))


if __name__ == "__main__":
    main()
