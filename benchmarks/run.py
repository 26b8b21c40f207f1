"""Time ours against what one would run instead; run by `make bench` after `make run`.

All contenders of a comparison take turns in one process, round by round, so that a slow minute of the machine hits all
of them; figures are medians, and what counts are their ratios. Writes benchmarks/results.json and the table of
docs/performance.md.

    python -m benchmarks.run                    everything
    python -m benchmarks.run scratch growth     parts of it; the others' results stay as they are
"""

import dataclasses
import itertools
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
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import instead, ours
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import write_block
from qc.files import read_json, write_json
from qc.inference.batches import PackedDataset
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import load_encoder
from qc.models.parameters import TrainingConfig
from qc.models.prefix import PrefixClassifier
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.paths import ENCODERS, LABELS, TOKENIZED, VOCABULARY
from qc.questions.labels import Labels
from qc.questions.tokenizers import Vocabulary
from qc.runtime.device import Precision, pick_device, pick_precision, seed_everything
from qc.stage import run
from qc.training.loop import fit

RESULTS, PAGE = Path("benchmarks/results.json"), Path("docs/performance.md")
BEGIN, END = "<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->"
SEEDS = (1, 2, 3)
EPOCHS = 5
WHOLE_ROUNDS = 1  # of the whole stages, which take five minutes
GOAL = 0.9
FINE_TUNING_LENGTH, PREFIX_LENGTH = 48, 36  # tokens that the notebook pads a question to
LARGE = {"hidden_size": 512, "heads": 8, "ffn_size": 2048, "layers": 12}
SIZES = (500, 1000, 2000, 5452)
COMPARISONS = {
    "distilbert": "fine-tuning",
    "prefix": "prefix",
    "scratch": "scratch, default size",
    "scratch_large": "scratch, 12 layers of 512",
}
CONTENDERS = {
    "trainer_fp32": "`Trainer`, fp32",
    "trainer_bf16": "`Trainer`, bf16",
    "fixed_length_fp32": "plain loop, fixed length, fp32",
}

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the comparisons share.

    Attributes:
        settings: params.yaml.
        train: The training split with special tokens.
        valid: The validation split with special tokens.
        labels: Class names.
        device: What trains: a GPU where there is one, for ours and for what one would run instead.
        precision: What `precision: auto` means on it.
    """

    settings: Settings
    train: PackedDataset
    valid: PackedDataset
    labels: Labels
    device: torch.device
    precision: Precision

    @property
    def classes(self) -> int:
        """Number of coarse classes."""
        return len(self.labels.classes)


def plain_config(section: TrainingConfig, **changes: object) -> TrainingConfig:
    """A section without what is ours alone: the second task, a rate for the head, smoothed labels."""
    plain = {"fine_weight": 0.0, "head_learning_rate": None, "label_smoothing": 0.0}
    return section.model_copy(update=plain | changes)


# A contender trains with a seed, and says: seconds of each epoch, seconds before the first, validation accuracy.
Contender = Callable[[int], tuple[list[float], float, float]]


def in_turns(contenders: Mapping[str, Contender], seeds: Sequence[int]) -> Figures:
    """Run every contender once a seed, in turns; medians over all epochs of all seeds."""
    found: dict[str, list[tuple[list[float], float, float]]] = {name: [] for name in contenders}
    for seed in seeds:
        for name, contender in contenders.items():
            seed_everything(seed, torch.get_num_threads())
            torch.use_deterministic_algorithms(name.startswith("ours"))  # the others are run as they usually are
            epochs, before, accuracy = contender(seed)
            found[name].append((epochs, before, accuracy))
            print(
                f"  seed {seed}  {name:<18} {statistics.median(epochs):8.3f} s an epoch, valid {accuracy:.3f}",
                flush=True,
            )
    figures = {}
    for name, runs in found.items():
        seconds = [took for epochs, _, _ in runs for took in epochs]
        figures[name] = {
            "seconds_an_epoch": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "seconds_before": statistics.median(before for _, before, _ in runs),
            "valid_accuracy": [accuracy for _, _, accuracy in runs],
        }
    return figures


def ratios(found: Figures, *pairs: tuple[str, str]) -> Figures:
    """For each pair of contenders: how many times as long an epoch of the first takes as one of the second."""
    return {
        f"{slow} / {fast}": found[slow]["seconds_an_epoch"] / found[fast]["seconds_an_epoch"] for slow, fast in pairs
    }


def whole_stage(bench: Bench) -> Figures:
    """`train_distilbert` against the same with Trainer as a user waits for them: processes, from start to end."""

    def run_in(module: str, precision: str) -> Figures:
        command = [sys.executable, "-m", module, precision]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise QcError(f"`{' '.join(command)}` failed: {done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    contenders = {
        f"{name}_{precision}": partial(run_in, module, precision)
        for name, module in (("ours", "benchmarks.ours"), ("trainer", "benchmarks.instead"))
        for precision in ("fp32", "bf16")
    }
    found: Figures = {name: {"seconds": [], "valid_accuracy": []} for name in contenders}
    for number in range(WHOLE_ROUNDS):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            told = contender()
            took, accuracy = time.perf_counter() - begin, told["valid_accuracy"]
            found[name]["seconds"].append(took)
            found[name]["valid_accuracy"].append(accuracy)
            if "phases" in told:  # what is in none is the start of the process, its end, and reports
                rest = took - sum(told["phases"].values())
                found[name]["phases"] = {"start and rest": rest, **told["phases"]}
            print(f"  round {number + 1}  {name:<13} {took:7.1f} s, valid {accuracy:.3f}", flush=True)
    seconds = {name: statistics.median(each["seconds"]) for name, each in found.items()}
    pairs = (("trainer_fp32", f"ours_{bench.precision}"), ("trainer_fp32", "ours_fp32"), ("trainer_bf16", "ours_bf16"))
    return {
        "epochs": bench.settings.train_distilbert.epochs,
        "contenders": found,
        "ratios": {f"{slow} / {fast}": seconds[slow] / seconds[fast] for slow, fast in pairs},
    }


def fine_tuning(bench: Bench) -> Figures:
    """`train_distilbert` against Trainer and against a plain loop: seconds an epoch, validation accuracy."""
    section = bench.settings.train_distilbert
    folder = ENCODERS / section.encoder
    config = plain_config(section, epochs=EPOCHS, patience=EPOCHS)
    full = section.model_copy(update={"epochs": EPOCHS, "patience": EPOCHS})
    sizes = (section.head_hidden_size, section.dropout)
    train_rows, valid_rows = instead.rows_of(bench.train), instead.rows_of(bench.valid)

    def with_ours(seed: int, precision: Precision, config: TrainingConfig) -> tuple[list[float], float, float]:
        coarse_of = bench.labels.coarse_of() if config.fine_weight else []
        encoder = load_encoder(folder, section.trainable_layers)
        model = DistilbertClassifier(encoder, *sizes, section.pooling, bench.classes, coarse_of)
        once, seconds, accuracy = ours.train(model, bench.train, bench.valid, config, seed, precision, bench.device)
        return seconds, once, accuracy

    def with_trainer(seed: int, bf16: bool) -> tuple[list[float], float, float]:
        model = instead.FineTuned(folder, section.trainable_layers, *sizes, bench.classes)
        seconds = instead.trainer(model, train_rows, config, folder, seed, bf16, bench.device)
        return seconds, 0.0, instead.accuracy(model, valid_rows, FINE_TUNING_LENGTH)

    def plain(seed: int) -> tuple[list[float], float, float]:
        model = instead.FineTuned(folder, section.trainable_layers, *sizes, bench.classes).to(bench.device)
        seconds = instead.plain_loop(model, train_rows, config, FINE_TUNING_LENGTH, seed)
        return seconds, 0.0, instead.accuracy(model, valid_rows, FINE_TUNING_LENGTH)

    found = in_turns(
        {
            "ours_fp32": partial(with_ours, precision="fp32", config=full),
            "ours_bf16": partial(with_ours, precision="bf16", config=full),
            "ours_one_task_fp32": partial(with_ours, precision="fp32", config=config),
            "trainer_fp32": partial(with_trainer, bf16=False),
            "trainer_bf16": partial(with_trainer, bf16=True),
            "fixed_length_fp32": plain,
        },
        SEEDS,
    )
    return {
        "trainable_layers": section.trainable_layers,
        "batch_size": section.batch_size,
        "learning_rate": config.learning_rate,
        "epochs": EPOCHS,
        "contenders": found,
        "ratios": ratios(
            found,
            ("trainer_fp32", f"ours_{bench.precision}"),
            ("trainer_fp32", "ours_fp32"),
            ("trainer_bf16", "ours_bf16"),
            ("fixed_length_fp32", f"ours_{bench.precision}"),
            ("fixed_length_fp32", "ours_fp32"),
            ("trainer_fp32", "ours_one_task_fp32"),
        ),
    }


def prefix(bench: Bench) -> Figures:
    """`train_prefix` against a plain loop: seconds an epoch, and seconds until `GOAL` in validation accuracy."""
    section = bench.settings.train_prefix
    folder = ENCODERS / section.encoder
    length = section.prefix_length or 0
    config = plain_config(section, patience=section.epochs)
    train_rows, valid_rows = instead.rows_of(bench.train), instead.rows_of(bench.valid)
    until: dict[str, float | None] = {}

    def with_ours(seed: int) -> tuple[list[float], float, float]:
        begin = time.perf_counter()
        coarse_of = bench.labels.coarse_of() if section.fine_weight else []
        encoder = load_encoder(folder, section.prefix_layers)
        model = PrefixClassifier(encoder, length, bench.classes, coarse_of, section.prefix_std)
        full = section.model_copy(update={"patience": section.epochs})
        splits = bench.train, bench.valid
        once, seconds, accuracy = ours.train(
            model, *splits, full, seed, bench.precision, bench.device, lambda epoch: epoch.valid_accuracy >= GOAL
        )
        until["ours"] = time.perf_counter() - begin if accuracy >= GOAL else None
        return seconds, once, accuracy

    def plain(seed: int) -> tuple[list[float], float, float]:
        begin = time.perf_counter()
        model = instead.Prefixed(folder, length, section.prefix_layers, section.prefix_std, bench.classes)
        model.to(bench.device)

        def accuracy() -> float:
            return instead.accuracy(model, valid_rows, PREFIX_LENGTH)

        seconds = instead.plain_loop(model, train_rows, config, PREFIX_LENGTH, seed, lambda: accuracy() >= GOAL)
        until["fixed_length_fp32"] = time.perf_counter() - begin if accuracy() >= GOAL else None
        return seconds, 0.0, accuracy()

    found = in_turns({f"ours_{bench.precision}": with_ours, "fixed_length_fp32": plain}, SEEDS[:1])
    return {
        "prefix_length": length,
        "prefix_layers": section.prefix_layers,
        "batch_size": config.batch_size,
        "contenders": found,
        "seconds_until_goal": until,
        "ratios": ratios(found, ("fixed_length_fp32", f"ours_{bench.precision}")),
    }


def scratch_sizes(bench: Bench, **changes: int) -> ScratchConfig:
    """The sizes of `train_scratch`, some of them changed."""
    section = bench.settings.train_scratch
    vocabulary = Vocabulary.read(TOKENIZED / section.tokenizer / VOCABULARY)
    names = ("hidden_size", "heads", "ffn_size", "layers", "dropout", "norm", "mask_padding")
    return ScratchConfig(
        **{name: getattr(section, name) for name in names} | changes,
        vocab_size=vocabulary.size,
        classes=bench.classes,
        coarse_of=(),
        max_length=bench.settings.max_length + 2,
        unknown_id=vocabulary.unknown_id,
        pad_id=vocabulary.pad_id,
    )


def scratch(bench: Bench, changes: dict[str, int], batch_size: int, count: int) -> Figures:
    """`train_scratch` against `torch.nn.TransformerEncoder` at fixed length, over `count` questions."""
    config = plain_config(bench.settings.train_scratch, epochs=1, patience=1, batch_size=batch_size)
    sizes = scratch_sizes(bench, **changes)
    some, few = ours.drawn(bench.train, count), ours.drawn(bench.valid, 2)
    some_rows = instead.rows_of(some)
    tokens = some.values.unique().tolist()

    def with_ours(seed: int, precision: Precision) -> tuple[list[float], float, float]:
        model = ScratchClassifier(sizes, tokens)
        once, seconds, accuracy = ours.train(model, some, few, config, seed, precision, bench.device)
        return seconds, once, accuracy

    def plain(seed: int) -> tuple[list[float], float, float]:
        model = instead.FromNothing(sizes).to(bench.device)
        return instead.plain_loop(model, some_rows, config, PREFIX_LENGTH, seed), 0.0, 0.0

    contenders = {
        "ours_fp32": partial(with_ours, precision="fp32"),
        "ours_bf16": partial(with_ours, precision="bf16"),
        "fixed_length_fp32": plain,
    }
    found = in_turns(contenders, SEEDS)
    for figures in found.values():
        del figures["valid_accuracy"], figures["seconds_before"]  # too short a run to learn anything
    return {
        "layers": sizes.layers,
        "hidden_size": sizes.hidden_size,
        "questions": count,
        "batch_size": batch_size,
        "contenders": found,
        "ratios": ratios(found, ("fixed_length_fp32", f"ours_{bench.precision}"), ("fixed_length_fp32", "ours_fp32")),
    }


def growth(bench: Bench) -> Figures:
    """Seconds an epoch, peak memory and share of the machine's peak, by model and number of questions."""
    peak = matrix_peak(bench.precision, bench.device)
    context = multiprocessing.get_context("spawn")
    results: Figures = {"matrix_peak_gflops": peak / 1e9, "precision": bench.precision}
    for name in ("scratch", "prefix", "distilbert"):
        results[name] = {}
        for size in SIZES:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=grown, args=(bench, name, size, sender))
            process.start()
            sender.close()  # a child that dies is then an error here
            seconds, operations, memory = receiver.recv()
            process.join()
            share = operations / seconds / peak
            results[name][str(size)] = {"seconds_an_epoch": seconds, "peak_memory_mib": memory, "share_of_peak": share}
            print(
                f"  {name:<10} {size:5} questions: {seconds:6.2f} s an epoch, {memory:.0f} MiB, {share:.0%}", flush=True
            )
    return results


def grown(bench: Bench, name: str, size: int, sender: Connection) -> None:
    """Train on `size` questions in a process of its own; sends seconds and operations of an epoch, MiB of memory."""
    settings = bench.settings
    section = getattr(settings, f"train_{name}")
    seed_everything(settings.seed, settings.threads)
    if name == "scratch":
        model = ScratchClassifier(scratch_sizes(bench), bench.train.values.unique().tolist())
    elif name == "prefix":
        encoder = load_encoder(ENCODERS / section.encoder, section.prefix_layers)
        model = PrefixClassifier(encoder, section.prefix_length or 0, bench.classes)
    else:
        encoder = load_encoder(ENCODERS / section.encoder, section.trainable_layers)
        model = DistilbertClassifier(encoder, section.head_hidden_size, section.dropout, section.pooling, bench.classes)
    config = plain_config(section, epochs=3, patience=3)
    drawn = ours.drawn(bench.train, size), ours.drawn(bench.valid, 2)
    splits, _ = ours.prepare(model, drawn, bench.precision, bench.device)
    moments = [time.perf_counter()]
    fit(model, *splits, config, 1, bench.precision, report=lambda state: moments.append(time.perf_counter()))
    memory = peak_memory(bench.device)
    with FlopCounterMode(display=False) as counter:
        fit(model, *splits, config.model_copy(update={"epochs": 1}), 1, bench.precision)
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(moments))
    sender.send((seconds, counter.get_total_flops(), memory))


def peak_memory(device: torch.device) -> float:
    """MiB that this process has had resident at most; on a GPU, those of the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def matrix_peak(precision: Precision, device: torch.device, rounds: int = 10) -> float:
    """Operations a second of multiplying large square matrices: what no program on this device exceeds."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = math.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        ours.finish(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def machine(settings: Settings, device: torch.device) -> Figures:
    """What the figures were measured on."""
    name = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "processor": name,
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
    """A contender's seconds an epoch, and its mean validation accuracy where it trained long enough to have one."""
    accuracies = figures.get("valid_accuracy")
    return f"{figures['seconds_an_epoch']:.2f}" + (f" ({statistics.mean(accuracies):.3f})" if accuracies else "")


def table(results: Figures) -> str:
    """The README's tables."""
    about = results["machine"]
    lines = [
        f"{about['cores']} cores ({about['processor']}; {about['matrix_gflops_fp32']:.0f} GFLOP/s in fp32, "
        f"{about['matrix_gflops_bf16']:.0f} in bf16), torch {about['torch']}, transformers {about['transformers']}:",
        "",
    ]
    if "stage" in results:
        found = results["stage"]
        lines += [
            f"| seconds of the whole stage, {found['epochs']} epochs (validation accuracy) | ours | instead | |",
            "|---|---|---|---|",
        ]
        for pair, times in found["ratios"].items():
            slow, fast = pair.split(" / ")
            theirs, own = (
                f"{statistics.median(each['seconds']):.0f} ({statistics.median(each['valid_accuracy']):.3f})"
                for each in (found["contenders"][slow], found["contenders"][fast])
            )
            precision = fast.removeprefix("ours_")
            lines.append(f"| fine-tuning, {precision} | {own} | {CONTENDERS[slow]}: {theirs} | {times:.1f} x |")
        spent = {precision: found["contenders"][f"ours_{precision}"]["phases"] for precision in ("bf16", "fp32")}
        lines += ["", "| seconds of ours, by phase | " + " | ".join(spent["bf16"]) + " |"]
        lines.append("|---" * (len(spent["bf16"]) + 1) + "|")
        for precision, phases in spent.items():
            lines.append(f"| {precision} | " + " | ".join(f"{took:.1f}" for took in phases.values()) + " |")
        lines.append("")
    lines += ["| seconds an epoch (validation accuracy) | ours | instead | |", "|---|---|---|---|"]
    for name, title in COMPARISONS.items():
        for pair, times in results[name]["ratios"].items() if name in results else ():
            slow, fast = pair.split(" / ")
            ours_shown, instead_shown = (shown(results[name]["contenders"][each]) for each in (fast, slow))
            precision = fast.removeprefix("ours_").replace("one_task_", "without the second task, ")
            lines.append(
                f"| {title}, {precision} | {ours_shown} | {CONTENDERS[slow]}: {instead_shown} | {times:.1f} x |"
            )
    if "prefix" in results:
        until = {
            name: "not reached" if seconds is None else f"{seconds:.0f} s"
            for name, seconds in results["prefix"]["seconds_until_goal"].items()
        }
        lines.append(f"| prefix, until {GOAL} on validation | {until['ours']} | {until['fixed_length_fp32']} | |")
    if "growth" in results:
        lines += ["", "| ours, an epoch of | " + " | ".join(f"{size} questions" for size in SIZES) + " |"]
        lines.append("|---" * (len(SIZES) + 1) + "|")
        for name in ("scratch", "prefix", "distilbert"):
            cells = [
                f"{found['seconds_an_epoch']:.1f} s, {found['peak_memory_mib']:.0f} MiB, {found['share_of_peak']:.0%}"
                for found in (results["growth"][name][str(size)] for size in SIZES)
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Run the comparisons named on the command line, or all of them."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(settings.threads)
    train, valid = instead.load_splits(settings)
    device = pick_device(settings.device)
    bench = Bench(settings, train, valid, Labels.read(LABELS), device, pick_precision("auto", device))
    parts: dict[str, Callable[[], Figures]] = {
        "stage": lambda: whole_stage(bench),
        "distilbert": lambda: fine_tuning(bench),
        "prefix": lambda: prefix(bench),
        "scratch": lambda: scratch(bench, {}, settings.train_scratch.batch_size, len(train)),
        "scratch_large": lambda: scratch(bench, LARGE, 64, 256),
        "growth": lambda: growth(bench),
    }
    chosen = sys.argv[1:] or list(parts)
    unknown = sorted(set(chosen) - set(parts))
    if unknown:
        raise QcError(f"benchmarks: invalid value {unknown[0]!r}; expected {', '.join(parts)}")
    results = read_json(RESULTS) if RESULTS.exists() and sys.argv[1:] else {}
    results["machine"] = machine(settings, device)
    for name in chosen:
        print(f"{name}:", flush=True)
        results[name] = parts[name]()
        write_json(RESULTS, {key: results[key] for key in ("machine", *parts) if key in results})
    write_block(PAGE, BEGIN, END, table(results))
    print(f"{RESULTS}: written")


if __name__ == "__main__":
    run(main)
