"""Device, precision, threads and determinism of a run.

Notable:
- bf16 by autocast where asked; master weights, optimizer and losses stay in fp32
- attention with kernels whose backward pass is deterministic (`deterministic_attention`)
"""

import os
import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from qc.errors import QcError
from qc.runtime.process_group import local_device, local_threads

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """Choose the device: `auto` is cuda where present, else cpu.

    Raises:
        QcError: The name is unknown, or cuda is absent.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise QcError(f"device: invalid value {name!r}; expected auto, cpu or cuda")
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise QcError("device: invalid value 'cuda', PyTorch finds no GPU here; expected auto or cpu")
    return local_device("cuda" if gpu and name != "cpu" else "cpu")


def pick_precision(name: str, device: torch.device) -> Precision:
    """Choose the precision: `auto` is bf16 where the device multiplies it natively and faster, else fp32.

    The choice goes by the kind of device, not by a measurement, which could differ from run to run: a GPU with bf16, a
    CPU with AMX, and a CPU with AVX512-BF16 unless it is Intel's. Intel CPUs have AMX for bf16; with AMX switched off,
    one was measured to multiply bf16 at half the rate of fp32, an AMD CPU at four times that rate.

    Raises:
        QcError: `portable` is asked for on a processor without AVX2.
    """
    if name == "portable":
        if not torch.cpu.get_capabilities().get("avx2"):
            raise QcError("params.yaml: precision: invalid value 'portable': this processor has no AVX2; expected fp32")
        return "fp32"
    if name != "auto":
        return name
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        intel = "Intel" in capabilities.get("cpu_name", "")
        faster = capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not intel)
    return "bf16" if faster else "fp32"


def seed_everything(seed: int, threads: int) -> None:
    """Make a run repeatable: seeds, deterministic algorithms, and a fixed number of threads, which orders the sums.

    The processes on one machine share its `threads` evenly.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA needs it to be deterministic
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(local_threads(threads))
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms`
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written


def deterministic_attention(device: torch.device) -> AbstractContextManager:
    """Context in which PyTorch's attention on a GPU runs by kernels whose backward pass is deterministic.

    FLASH_ATTENTION takes bf16 batches without padding, MATH the others; EFFICIENT_ATTENTION is not deterministic.
    """
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]) if device.type == "cuda" else nullcontext()


def describe_processor(device: torch.device) -> dict[str, Any]:
    """Describe what in processor and drivers affects the numbers."""
    if device.type == "cpu":
        return dict(torch.cpu.get_capabilities())
    import pynvml

    pynvml.nvmlInit()
    return {
        "name": torch.cuda.get_device_name(),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context of a forward pass: matrix products in bf16, or everything in fp32.

    Enter another one for every step: on exit it drops the bf16 copies of weights, which the step then changes.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
