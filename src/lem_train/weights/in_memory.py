"""The weights after any phase in a model that is loaded once: no folder is written."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import dequantize_model

from .base import Base, base_tensors, dense
from .io import load_model
from .lineage import DTYPES, Delta, check_fit, fused_weight, summed


def load_dense(base: Base, dtype: str) -> nn.Module:
    """The base's model in the form in which weights are handed on: unpacked, every floating tensor
    in `dtype`, as if `write_fused` had written it without a delta."""
    model = load_model(base.folder, lazy=True, trust_remote_code=base.trust_remote_code)
    if base.quantized:
        dequantize_model(model)  # for its modules: their values are set here, as a fuse has them
        tensors = base_tensors(base)
        for name in base.quantized:
            _set(model, base.modules[name], dense(base, name, tensors))
    model.set_dtype(DTYPES[dtype])
    mx.eval(model.parameters())
    model.eval()
    return model


def touched(base: Base, deltas: Sequence[Delta]) -> dict[str, str]:
    """Modules that any of the deltas changes: path → name of the weight on disk.

    Raises:
        WeightsError: deltas of another base.
    """
    check_fit(base, deltas)
    paths = {path for delta in deltas for path in delta.factors}
    return {path: name for name, path in base.modules.items() if path in paths}


def set_weights(
    model: nn.Module,
    base: Base,
    modules: dict[str, str],
    deltas: Sequence[Delta],
    dtype: str,
    seed: int,
) -> None:
    """Give `modules` of a model from `load_dense` the weights that `write_fused` writes for base +
    Σ `deltas`, bit for bit; what else there is stays.

    Args:
        modules: of `touched`, for all deltas that were or will be set.
    """
    tensors = base_tensors(base)
    for path, name in modules.items():
        weight, total = dense(base, name, tensors), summed(deltas, path)
        if total is None:
            weight = weight.astype(DTYPES[dtype])
        else:
            weight = fused_weight(weight.astype(mx.float32), total, path, DTYPES[dtype], seed)
        mx.eval(weight)  # one by one: the float32 of all of them would not fit
        _set(model, path, weight)


def _set(model: nn.Module, path: str, weight: mx.array) -> None:
    model.load_weights([(f"{path}.weight", weight)], strict=False)
