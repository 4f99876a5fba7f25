"""The importance matrix: what the linear layers are given, summed up and written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from lem_train.data.tokenize import Example
from lem_train.export.gguf.imatrix import measure_importance, write_matrix
from lem_train.export.gguf.llama import read_matrix
from lem_train.export.gguf.tensors import architecture, gguf_name
from lem_train.weights.folder import read_config
from lem_train.weights.io import load_model

ARCHITECTURES = ("gemma3", "llama", "qwen3", "mistral")


def rows() -> list[Example]:
    draw = np.random.default_rng(0)
    lengths = (9, 1, 130)  # the last is longer than Gemma's window
    return [
        Example("", "", draw.integers(0, 4096, n).astype(np.int32), np.ones(n, bool))
        for n in lengths
    ]


def seen_by(model: nn.Module, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict:
    """Σ x² in float64 by the weight's name, of inputs that are copied out of every call."""
    names = {id(layer): path for path, layer in model.named_modules()}
    sums: dict[str, Any] = defaultdict(float)
    call = nn.Linear.__call__

    def watched(layer: nn.Linear, x: mx.array) -> mx.array:
        name = gguf_name(architecture(config), f"{names[id(layer)]}.weight")
        for vector in np.array(x.astype(mx.float32)).reshape(-1, x.shape[-1]):
            sums[name] = sums[name] + vector.astype(np.float64) ** 2
        return call(layer, x)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "__call__", watched)
        for row in rows():
            mx.eval(model(mx.array(row.token_ids)[None]))
    return {name: value for name, value in sums.items() if name.startswith("blk.")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_linear_layer_of_a_block_is_summed_over_all_tokens(
    arch: str, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(arch)
    model, config = load_model(folder), read_config(folder)
    expected = seen_by(model, config, monkeypatch)
    found = measure_importance(model, config, rows())
    assert found.sums.keys() == expected.keys()
    assert len(expected) == 14  # seven in each of two layers
    assert (found.tokens, found.rows) == (140, 3)
    for name, value in found.sums.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5)


def test_the_model_comes_back_as_it_was(tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder("gemma3")
    model = load_model(folder)
    ids = mx.arange(20)[None]
    before, names = model(ids), [name for name, _ in tree_flatten(model.parameters())]
    measure_importance(model, read_config(folder), rows())
    assert [name for name, _ in tree_flatten(model.parameters())] == names
    assert mx.array_equal(model(ids), before)


def test_what_is_written_reads_as_means_under_the_names_that_llama_cpp_looks_for(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    folder = tiny_folder("gemma3")
    found = measure_importance(load_model(folder), read_config(folder), rows())
    write_matrix(tmp_path / "m.gguf", found, "three rows")
    means = read_matrix(tmp_path / "m.gguf")
    assert means.keys() == found.sums.keys()
    for name, mean in means.items():
        np.testing.assert_allclose(mean, found.sums[name] / 140, rtol=1e-6)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["general.type"].contents() == "imatrix"
    assert fields["imatrix.datasets"].contents() == ["three rows"]
    assert (fields["imatrix.chunk_count"].contents(), fields["imatrix.chunk_size"].contents()) == (
        3,
        47,
    )
    assert "blk.1.ffn_down.weight" in means
