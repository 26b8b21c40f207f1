"""Time ours against what one would run instead; run by `make bench` after `make run`.

All contenders of a comparison take turns in one process, round by round, so that a slow minute of the machine hits all
of them; figures are medians, and what counts are their ratios. Writes benchmarks/results.json and the tables of
docs/performance.md.

    python -m benchmarks.run                    everything
    python -m benchmarks.run scratch growth     parts of it; the others' results stay as they are
"""

import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import instead, ours
from benchmarks.ours import Timed, changed
from qc.commands.tables import write_block
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import markdown
from qc.files import read_json, write_json
from qc.models.registry import MODELS
from qc.runtime.device import Precision, describe_processor, pick_device, pick_precision
from qc.stage import run

RESULTS, PAGE = Path("benchmarks/results.json"), Path("docs/performance.md")
BEGIN, END = "<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->"
SEEDS = (1,)
FINE_TUNING_LENGTH, PREFIX_LENGTH = 48, 36  # tokens that the notebook pads a question to
LARGE = {"hidden_size": 512, "heads": 8, "ffn_size": 2048, "layers": 12, "batch_size": 64, "count": 256}
SIZES = (500, 1000, 2000, 5452)
ONE_TASK = {"fine_weight": 0.0, "head_learning_rate": None, "label_smoothing": 0.0}  # without what is ours alone
USUAL = {"distilbert": "trainer", "prefix": "peft"}  # by transformers' Trainer, what is named so in the tables
TITLES = {
    "distilbert": "fine-tuning",
    "prefix": "prefix",
    "scratch": "scratch, default size",
    "scratch_large": "scratch, 12 layers of 512",
    "trainer_fp32": "`Trainer`, fp32",
    "trainer_bf16": "`Trainer`, bf16",
    "peft_fp32": "`peft`, fp32",
    "peft_bf16": "`peft`, bf16",
    "fixed_length_fp32": "plain loop, fixed length, fp32",
}

Figures = dict[str, Any]
Contender = Callable[[Settings], Timed]  # trains with the settings' seed


def in_turns(settings: Settings, contenders: Mapping[str, Contender], seeds: Sequence[int]) -> Figures:
    """Run every contender once a seed, in turns; medians over all epochs of all seeds."""
    runs: dict[str, list[Timed]] = {name: [] for name in contenders}
    for seed in seeds:
        for name, contender in contenders.items():
            torch.use_deterministic_algorithms(False)  # ours sets it
            seconds, accuracy = contender(settings.model_copy(update={"seed": seed}))
            runs[name].append((seconds, accuracy))
            figures = f"{statistics.median(seconds):8.3f} s an epoch, valid {accuracy:.3f}"
            print(f"  seed {seed}  {name:<18} {figures}", flush=True)
    return {
        name: {
            "seconds_an_epoch": statistics.median(took for seconds, _ in timings for took in seconds),
            "valid_accuracy": [accuracy for _, accuracy in timings],
        }
        for name, timings in runs.items()
    }


def ratios(seconds: Mapping[str, float], *pairs: tuple[str, str]) -> dict[str, float]:
    """How many times as long the first of a pair of contenders takes as the second."""
    return {f"{slow} / {fast}": seconds[slow] / seconds[fast] for slow, fast in pairs}


def against(usual: str, auto: Precision) -> list[tuple[str, str]]:
    """Pair the usual way in fp32 with ours as it runs here, and both in either precision."""
    return [(f"{usual}_fp32", f"ours_{auto}"), *((f"{usual}_{bits}", f"ours_{bits}") for bits in ("fp32", "bf16"))]


def compare(name: str, length: int, settings: Settings, auto: Precision, **changes: Any) -> Figures:
    """Compare the model NAME, its section of params.yaml changed, with Trainer and a loop that pads to `length`."""
    count, seeds = changes.pop("count", None), changes.pop("seeds", SEEDS)
    settings = changed(settings, name, **changes)
    section, data = getattr(settings, f"train_{name}"), ours.load(name, settings, count)
    train, valid = instead.rows_of(data.train), instead.rows_of(data.valid)

    def with_ours(seeded: Settings, precision: Precision, **others: object) -> Timed:
        return ours.train(name, changed(seeded, name, **others).model_copy(update={"precision": precision}), count)

    def with_trainer(seeded: Settings, bf16: bool) -> Timed:
        model = instead.build(name, seeded, data)
        seconds = instead.trainer(model, train, section, seeded, bf16)
        return seconds, instead.accuracy(model, valid, length)

    def plain(seeded: Settings) -> Timed:
        return instead.plain_loop(instead.build(name, seeded, data), train, valid, section, seeded, length)

    contenders: dict[str, Contender] = {f"ours_{bits}": partial(with_ours, precision=bits) for bits in ("fp32", "bf16")}
    pairs = [("fixed_length_fp32", f"ours_{auto}"), ("fixed_length_fp32", "ours_fp32")]
    if name in USUAL:
        usual = USUAL[name]
        contenders["ours_one_task_fp32"] = partial(with_ours, precision="fp32", **ONE_TASK)
        contenders |= {f"{usual}_{bits}": partial(with_trainer, bf16=bits == "bf16") for bits in ("fp32", "bf16")}
        pairs = [*against(usual, auto), *pairs, (f"{usual}_fp32", "ours_one_task_fp32")]
    figures = in_turns(settings, {**contenders, "fixed_length_fp32": plain}, seeds)
    seconds = {contender: result["seconds_an_epoch"] for contender, result in figures.items()}
    if name == "scratch":
        for result in figures.values():
            del result["valid_accuracy"]  # too short a run to learn anything
    return {"contenders": figures, "ratios": ratios(seconds, *pairs)}


def whole_stage(settings: Settings, auto: Precision) -> Figures:
    """`train_distilbert` against the same with Trainer as a user waits for them: processes, from start to end."""
    names = {"ours": "benchmarks.ours", "trainer": "benchmarks.instead"}
    contenders = {f"{name}_{bits}": (names[name], bits) for name in names for bits in ("fp32", "bf16")}
    figures: Figures = {}
    for name, arguments in contenders.items():
        begin, command = time.perf_counter(), [sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise QcError(f"`{' '.join(command)}` failed: {done.stderr}")
        figures[name] = {"seconds": time.perf_counter() - begin, **json.loads(done.stdout.splitlines()[-1])}
        print(f"  {name:<13} {{seconds:7.1f}} s, valid {{valid_accuracy:.3f}}".format(**figures[name]), flush=True)
    seconds = {name: result["seconds"] for name, result in figures.items()}
    return {
        "epochs": settings.train_distilbert.epochs,
        "contenders": figures,
        "ratios": ratios(seconds, *against("trainer", auto)),
    }


def growth(settings: Settings, auto: Precision) -> Figures:
    """Seconds an epoch, peak memory and share of the machine's peak, by model and number of questions."""
    peak = matrix_peak(auto, pick_device(settings.device))
    results: Figures = {"matrix_peak_gflops": peak / 1e9, "precision": auto, **{name: {} for name in MODELS}}
    for name in MODELS:
        for size in SIZES:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                seconds, operations, memory = pool.submit(grown, name, settings, size).result()
            share = operations / seconds / peak
            results[name][str(size)] = {"seconds_an_epoch": seconds, "peak_memory_mib": memory, "share_of_peak": share}
            figures = f"{seconds:6.2f} s an epoch, {memory:.0f} MiB, {share:.0%}"
            print(f"  {name:<10} {size:5} questions: {figures}", flush=True)
    return results


def grown(name: str, settings: Settings, size: int) -> tuple[float, int, float]:
    """Train on `size` questions in a process of its own; seconds and operations of an epoch, MiB of memory."""
    settings = changed(settings, name, **ONE_TASK, epochs=3, patience=3)
    seconds = statistics.median(ours.train(name, settings, size)[0])
    memory = ours.peak_memory()
    if pick_device(settings.device).type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    operations = []
    for epochs in (2, 3):  # what is done before the first epoch is in both
        data = ours.load(name, settings, size)  # outside: the counter's hooks bear no gradients of a part of a graph
        with FlopCounterMode(display=False) as counter:
            ours.train(name, changed(settings, name, epochs=epochs), data=data)
        operations.append(counter.get_total_flops())
    return seconds, operations[1] - operations[0], memory


def matrix_peak(precision: Precision, device: torch.device, rounds: int = 10) -> float:
    """Operations a second of multiplying large square matrices: what no program on this device exceeds."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = math.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def machine(settings: Settings) -> Figures:
    """What the figures were measured on."""
    device = pick_device(settings.device)
    processor = describe_processor(device)
    return {
        "processor": processor["name" if device.type == "cuda" else "cpu_name"],
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "matrix_gflops_fp32": matrix_peak("fp32", device) / 1e9,
        "matrix_gflops_bf16": matrix_peak("bf16", device) / 1e9,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def shown(figures: Figures) -> str:
    """A contender's seconds, and its validation accuracy where it trained long enough to have one."""
    if "seconds" in figures:
        return f"{figures['seconds']:.0f} ({figures['valid_accuracy']:.3f})"
    accuracies = figures.get("valid_accuracy")
    return f"{figures['seconds_an_epoch']:.2f}" + (f" ({statistics.mean(accuracies):.3f})" if accuracies else "")


def rows(title: str, figures: Figures) -> list[list[str]]:
    """A comparison's rows: a title, ours, instead, and how many times as fast ours is."""
    cells = []
    for pair, times in figures["ratios"].items():
        slow, fast = pair.split(" / ")
        precision = fast.removeprefix("ours_").replace("one_task_", "without the second task, ")
        own, others = (shown(figures["contenders"][name]) for name in (fast, slow))
        cells.append([f"{title}, {precision}", own, f"{TITLES[slow]}: {others}", f"{times:.1f} x"])
    return cells


def table(results: Figures) -> str:
    """The tables of docs/performance.md."""
    about = results["machine"]
    words = (
        f"{about['cores']} cores ({about['processor']}; {about['matrix_gflops_fp32']:.0f} GFLOP/s in fp32, "
        f"{about['matrix_gflops_bf16']:.0f} in bf16), torch {about['torch']}, transformers {about['transformers']}:"
    )
    parts = [words]
    if stage := results.get("stage"):
        header = f"seconds of the whole stage, {stage['epochs']} epochs (validation accuracy)"
        parts.append(markdown([header, "ours", "instead", ""], rows("fine-tuning", stage)))
    epochs = [
        row for name in ("distilbert", "prefix", "scratch", "scratch_large") if name in results
        for row in rows(TITLES[name], results[name])
    ]  # fmt: skip
    parts.append(markdown(["seconds an epoch (validation accuracy)", "ours", "instead", ""], epochs))
    if "growth" in results:
        sizes = results["growth"]["scratch"]
        cell = "{seconds_an_epoch:.1f} s, {peak_memory_mib:.0f} MiB, {share_of_peak:.0%}"
        cells = [[name, *(cell.format(**results["growth"][name][size]) for size in sizes)] for name in MODELS]
        parts.append(markdown(["ours, an epoch of", *(f"{size} questions" for size in sizes)], cells))
    return "\n\n".join(parts)


def main(settings: Settings) -> None:
    """Run the comparisons named on the command line, or all of them."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(settings.threads)
    parts: dict[str, Callable[[Settings, Precision], Figures]] = {
        "stage": whole_stage,
        "distilbert": partial(compare, "distilbert", FINE_TUNING_LENGTH),
        "prefix": partial(compare, "prefix", PREFIX_LENGTH),
        "scratch": partial(compare, "scratch", PREFIX_LENGTH, **ONE_TASK, epochs=2),
        "scratch_large": partial(compare, "scratch", PREFIX_LENGTH, **ONE_TASK, epochs=2, **LARGE),
        "growth": growth,
    }
    chosen = sys.argv[1:] or list(parts)
    if unknown := sorted(set(chosen) - set(parts)):
        raise QcError(f"benchmarks: invalid value {unknown[0]!r}; expected {', '.join(parts)}")
    auto = pick_precision("auto", pick_device(settings.device))
    results = read_json(RESULTS) if RESULTS.exists() and sys.argv[1:] else {}
    results["machine"] = machine(settings)
    for name in chosen:
        print(f"{name}:", flush=True)
        results[name] = parts[name](settings, auto)
        write_json(RESULTS, {key: results[key] for key in ("machine", *parts) if key in results})
    write_block(PAGE, BEGIN, END, table(results))
    print(f"{RESULTS}: written")


if __name__ == "__main__":
    run(main)
