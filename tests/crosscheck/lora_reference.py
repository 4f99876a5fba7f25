"""LoRA training as torch and transformers compute it, to hold the trainer's losses against.

    python tests/crosscheck/lora_reference.py [--float64] JOB_FOLDER...

Runs under an environment of its own with torch, transformers, safetensors and numpy; the project
does not depend on torch, and nothing here is imported from the project. All that the trainer does
to be fast is left out: every row runs alone and whole, so there is no padding, no shared prefix,
no gathering of positions and no recomputation.

Each JOB_FOLDER holds

    model/      a Hugging Face model
    adapter/    the adapter to start from, as mlx-lm stores it: adapters.safetensors with
                `<module>.lora_a` (in, r) and `<module>.lora_b` (r, out); adapter_config.json
    job.json    {"iterations": [[{"token_ids": [...], "loss_mask": [0, 1, ...]}, ...], ...],
                 "grad_accumulation_steps": n, "learning_rates": [one per update],
                 "optimizer": {"name": ..., "momentum": ..., "weight_decay": ...},
                 "max_grad_norm": number or null}

and gets reference.json with `losses` (mean nats a supervised token, per iteration), `grad_norms`
(before clipping, per update) and, for every adapter tensor after the last update, its `sum` and
Euclidean `norm`, in `adapters`.

With --float64 parameters, matrix products, loss and optimizer are float64. transformers computes
RMS norms, softmax and rotary tables in float32 whatever the model's dtype, so this measures most of
the rounding, not all of it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

Row = dict[str, list[int]]


class LowRank(nn.Module):
    """W x + scale · (x A) B on a frozen linear module; A is (in, r) and B (r, out)."""

    def __init__(self, linear: nn.Module, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * (x @ self.a @ self.b)


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern 2018, algorithm 4) with a learning rate that is given.

    torch's own is another algorithm: it multiplies the rate by the parameter's root mean square
    and caps it at 1 / sqrt(step). Here, as with MLX's `relative_step=False, scale_parameter=False`,
    the rate is taken as it is; updates are clipped at a root mean square of one.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float):
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self._step(parameter, self.state[parameter], group["lr"], group["weight_decay"])

    @staticmethod
    def _step(w: Tensor, state: dict[str, Any], rate: float, decay: float) -> None:
        g = w.grad
        t = state["t"] = state.get("t", 0) + 1
        keep = 1 - t**-0.8  # 0 in the first step, so that the averages need no correction
        squares = g * g + 1e-30
        rows = keep * state.get("rows", 0) + (1 - keep) * squares.mean(1, keepdim=True)
        columns = keep * state.get("columns", 0) + (1 - keep) * squares.mean(0, keepdim=True)
        state["rows"], state["columns"] = rows, columns
        # Two factors: their product 1e-30 is too small for float32, its root is not.
        update = g / (rows / rows.mean()).sqrt() / columns.sqrt()
        update /= max(1.0, update.square().mean().sqrt().item())
        w.mul_(1 - rate * decay).sub_(rate * update)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024): Nesterov momentum, orthogonalised by five Newton-Schulz steps.

    torch's own runs Newton-Schulz in bfloat16 and decays the weights apart from the gradient. MLX's
    stays in the gradient's dtype and adds the decay to it, so this does.
    """

    def __init__(self, parameters: Sequence[Tensor], momentum: float, weight_decay: float):
        defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                mu, g = group["momentum"], w.grad + group["weight_decay"] * w
                velocity = self.state[w].get("velocity", torch.zeros_like(w)).lerp(g, 1 - mu)
                self.state[w]["velocity"] = velocity
                height, width = w.shape
                rate = group["lr"] * math.sqrt(max(1.0, height / width))
                w.sub_(rate * _orthogonalised(g.lerp(velocity, mu)))


def _orthogonalised(matrix: Tensor) -> Tensor:
    """The quintic iteration that pulls all singular values towards one."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


# adam, adamw: MLX with `bias_correction=True` is torch's definition, epsilon included, which both
# add after the second moment was corrected. torch computes the corrections in double precision,
# MLX in float32, where 1 - 0.999**t is off by 1e-5 of itself at t = 1.
# sgd: MLX starts from a velocity of zero, torch from the first gradient, undamped. Both apply the
# learning rate to the velocity, not to the gradient, and add the decay to the gradient; so they
# agree as long as dampening is zero, and would differ in the first updates otherwise.
_OPTIMIZERS: dict[str, Callable[[list[Tensor], dict[str, Any]], torch.optim.Optimizer]] = {
    "adam": lambda p, s: torch.optim.Adam(p, betas=(0.9, 0.999), eps=1e-8),
    "adamw": lambda p, s: torch.optim.AdamW(
        p, betas=(0.9, 0.999), eps=1e-8, weight_decay=s["weight_decay"]
    ),
    "sgd": lambda p, s: torch.optim.SGD(
        p, lr=0.0, momentum=s["momentum"], dampening=0.0, weight_decay=s["weight_decay"]
    ),
    "adafactor": lambda p, s: Adafactor(p, s["weight_decay"]),
    "muon": lambda p, s: Muon(p, s["momentum"], s["weight_decay"]),
}


def load(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, dict[str, LowRank]]:
    """The frozen model with the stored adapter on it, and the adapted modules by path."""
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=dtype, attn_implementation="eager"
    )
    model.eval().requires_grad_(False)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora", config
    parameters = config["lora_parameters"]
    tensors = load_file(folder / "adapter" / "adapters.safetensors")
    adapted: dict[str, LowRank] = {}
    for path in sorted({name.rsplit(".", 1)[0] for name in tensors}):
        linear = model.get_submodule(path)
        a, b = tensors.pop(f"{path}.lora_a").to(dtype), tensors.pop(f"{path}.lora_b").to(dtype)
        assert a.shape == (linear.in_features, parameters["rank"]), path
        assert b.shape == (parameters["rank"], linear.out_features), path
        adapted[path] = LowRank(linear, a, b, parameters["scale"])
        model.set_submodule(path, adapted[path])
    assert adapted and not tensors, f"neither lora_a nor lora_b: {sorted(tensors)}"
    return model, adapted


def train(model: nn.Module, parameters: list[Tensor], job: dict[str, Any]) -> dict[str, Any]:
    """Train as `job` says; losses per iteration and gradient norms per update."""
    optimizer = _OPTIMIZERS[job["optimizer"]["name"]](parameters, job["optimizer"])
    window, iterations = job["grad_accumulation_steps"], job["iterations"]
    starts = range(0, len(iterations), window)
    losses: list[float] = []
    grad_norms: list[float] = []
    for first, rate in zip(starts, job["learning_rates"], strict=True):
        in_window = iterations[first : first + window]
        supervised = sum(_supervised(rows) for rows in in_window)
        optimizer.zero_grad(set_to_none=True)
        for rows in in_window:
            total = torch.stack([row_loss(model, row) for row in rows]).sum()
            (total / supervised).backward()
            losses.append(total.item() / _supervised(rows))
        grad_norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters)))
        limit = job["max_grad_norm"]
        if limit is not None and grad_norms[-1] > limit:
            for parameter in parameters:
                parameter.grad *= limit / grad_norms[-1]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {"losses": losses, "grad_norms": grad_norms}


def row_loss(model: nn.Module, row: Row) -> Tensor:
    """Sum of the cross-entropies, in nats, of a row's supervised tokens."""
    token_ids = torch.tensor(row["token_ids"])  # (T,)
    targets = torch.tensor(row["loss_mask"], dtype=torch.bool)[1:]
    logits = model(token_ids[None], use_cache=False).logits[0, :-1]  # (T - 1, V)
    return cross_entropy(logits, token_ids[1:], reduction="none")[targets].sum()


def _supervised(rows: list[Row]) -> int:
    return sum(sum(row["loss_mask"][1:]) for row in rows)


def summary(adapted: dict[str, LowRank]) -> dict[str, dict[str, float]]:
    """Sum and norm of every adapter tensor, under the name that mlx-lm gives it."""
    tensors = {f"{path}.lora_a": module.a for path, module in adapted.items()}
    tensors |= {f"{path}.lora_b": module.b for path, module in adapted.items()}
    return {
        name: {"sum": tensor.double().sum().item(), "norm": tensor.double().norm().item()}
        for name, tensor in sorted(tensors.items())
    }


def run(folder: Path, dtype: torch.dtype) -> None:
    """Train the job in `folder` and write its reference.json."""
    model, adapted = load(folder, dtype)
    job = json.loads((folder / "job.json").read_text())
    parameters = [p for module in adapted.values() for p in (module.a, module.b)]
    result = train(model, parameters, job) | {"adapters": summary(adapted)}
    (folder / "reference.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="LoRA training in torch, for comparison")
    parser.add_argument("--float64", action="store_true", help="less rounding")
    parser.add_argument("jobs", type=Path, nargs="+", help="folders with model, adapter, job.json")
    arguments = parser.parse_args()
    disable_progress_bar()
    for folder in arguments.jobs:
        run(folder, torch.float64 if arguments.float64 else torch.float32)


if __name__ == "__main__":
    main()
