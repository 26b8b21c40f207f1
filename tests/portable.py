"""What tests/test_portable.py runs on an emulated processor: `python -m tests.portable`, in a project.

Prints a hash for each operation that models and scores are made of; then trains the three models and evaluates them,
all in one process, since starting one under emulation takes most of the time.
"""

import hashlib
import json

from qc.config.settings import Settings
from qc.paths import Folders
from qc.stage import run


def main(settings: Settings) -> None:
    from qc.models.registry import MODELS
    from qc.training.run import run_training
    from stages import evaluate

    print(json.dumps(hashes()), flush=True)
    for name in MODELS:
        run_training(name, settings, Folders())
    evaluate.main(settings)


def hashes() -> dict[str, str]:
    import numpy as np
    import torch
    from scipy.special import softmax
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(1)
    torch.set_num_threads(1)
    x, w, b = torch.randn(32, 17, 384), torch.randn(1536, 384), torch.randn(1536)
    q = torch.randn(32, 12, 17, 32)
    scores = q @ q.transpose(-1, -2)
    found = {
        "randn": x,
        "linear": F.linear(x, w, b),
        "mm": x[0].t() @ x[0],
        "bmm": scores,
        "softmax": scores.softmax(-1),
    }
    for name in ("exp", "log", "erf", "tanh", "sigmoid"):
        found[name] = getattr(x.abs() + 0.1, name)()
    layer = nn.Sequential(nn.LayerNorm(384), nn.Linear(384, 256), nn.GELU(), nn.Linear(256, 6))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, fused=True)
    for _ in range(3):
        F.cross_entropy(layer(x[:, 0]), torch.arange(32) % 6, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    found["three steps of AdamW"] = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])
    z = np.random.default_rng(1).normal(size=(200, 6))
    arrays = {
        "numpy exp": np.exp(z),
        "numpy log": np.log(np.abs(z)),
        "numpy mm": z.T @ z,
        "scipy softmax": softmax(z, 1),
    }
    found |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {
        name: hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in found.items()
    }


if __name__ == "__main__":
    run(main)
