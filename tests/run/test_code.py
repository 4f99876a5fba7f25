"""Code that a base brings: run if the curriculum and the command line allow it, else never."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lem_train.curriculum.schema import BaseConfig
from lem_train.errors import WeightsError
from lem_train.run.base import base_identity
from lem_train.run.fuse import fuse_run
from lem_train.run.preview import preview_run
from lem_train.run.runner import train_curriculum
from lem_train.weights.base import open_base
from lem_train.weights.chat import code_wanted, load_chat_tokenizer
from lem_train.weights.io import load_model

if TYPE_CHECKING:
    from conftest import Pico

TRUST = "base.trust_remote_code=true"
MODEL = """\
from pathlib import Path

from mlx_lm.models.llama import Model, ModelArgs

Path({ran!r}).touch()
"""
WORDS = """\
from pathlib import Path

from transformers import PreTrainedTokenizerFast

Path({ran!r}).touch()


class Words(PreTrainedTokenizerFast):
    pass
"""


def _configure(folder: Path, name: str, **keys: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """There once foreign code has run."""
    return tmp_path / "ran"


@pytest.fixture
def base(tmp_path: Path, tiny_folder: Callable[[str], Path], ran: Path, pico: Pico) -> Path:
    """A Llama under a name of its own that only its own file can build; the curriculum's base."""
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "own"))
    (folder / "own.py").write_text(MODEL.format(ran=str(ran)))
    _configure(folder, "config.json", model_file="own.py", model_type="own")
    pico.edit("pico.yaml", "{tiny: gemma3}", f"{{path: {folder}}}")
    return folder


def _train(pico: Pico, run: Path, *settings: str, trust: bool) -> None:
    curriculum = pico.load("phases.ethics.iterations=2", *settings)
    train_curriculum(curriculum, run, lambda event: None, "ethics", trust)


@pytest.mark.parametrize(
    ("settings", "trust", "missing"),
    [
        ((), False, "base.trust_remote_code: true in the curriculum and no --trust-remote-code"),
        ((TRUST,), False, "--trust-remote-code on the command line"),
        ((), True, "base.trust_remote_code: true in the curriculum"),
    ],
)
@pytest.mark.parametrize("planned", [True, False])
def test_code_is_not_run_unless_both_allow_it(
    planned: bool,
    settings: tuple[str, ...],
    trust: bool,
    missing: str,
    base: Path,
    pico: Pico,
    ran: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(WeightsError) as caught:
        if planned:
            preview_run(pico.load(*settings), run, trust)
        else:
            _train(pico, run, *settings, trust=trust)
    assert str(caught.value).startswith(f"{base}: wants to run its own code, own.py")
    assert f"found no {missing}" in str(caught.value)
    assert not ran.exists()


def test_code_that_both_allow_is_trained_and_fused(
    base: Path, pico: Pico, ran: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    preview_run(pico.load(TRUST), run, True)
    assert not ran.exists()  # a plan builds no model
    _train(pico, run, TRUST, trust=True)
    assert ran.exists() and not (base / "__pycache__").exists()
    names = [spec.name for spec in open_base(base, True).specs]
    assert any(name.endswith("down_proj.weight") for name in open_base(base, True).modules)

    ran.unlink()
    with pytest.raises(WeightsError, match="found no --trust-remote-code on the command line"):
        fuse_run(run, out, "ethics", None, None, lambda fused: "", trust_remote_code=False)
    assert not ran.exists() and not out.exists()
    fuse_run(run, out, "ethics", None, None, lambda fused: "", trust_remote_code=True)
    assert (out / "own.py").read_bytes() == (base / "own.py").read_bytes()
    assert [spec.name for spec in open_base(out, True).specs] == names

    ran.unlink()
    with pytest.raises(WeightsError, match="wants to run its own code"):
        load_model(out)
    assert not ran.exists()
    load_model(out, trust_remote_code=True)


def test_a_packed_model_keeps_its_code(base: Path, pico: Pico, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    _train(pico, run, TRUST, trust=True)
    fuse_run(run, out, "ethics", None, 8, lambda fused: "", trust_remote_code=True)
    assert open_base(out, True).quantized


def test_a_tokenizers_code_is_run_only_if_it_is_trusted(
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    ran: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "own"))
    (folder / "words.py").write_text(WORDS.format(ran=str(ran)))
    auto_map = {"AutoTokenizer": [None, "words.Words"]}
    _configure(folder, "config.json", model_type="own")
    _configure(folder, "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Words")
    assert code_wanted(folder) == "words.Words (auto_map in tokenizer_config.json)"
    with pytest.raises(WeightsError, match="trust_remote_code"):
        load_chat_tokenizer(folder)
    assert not ran.exists()
    chat = load_chat_tokenizer(folder, trust_remote_code=True)
    assert ran.exists()
    assert chat.encode("Hello") == load_chat_tokenizer(tiny_folder("llama")).encode("Hello")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_map_of_code_that_nothing_needs_is_passed_over(
    name: str, tmp_path: Path, tiny_folder: Callable[[str], Path], ran: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "mapped"))
    (folder / "own.py").write_text(WORDS.format(ran=str(ran)))
    names = ("AutoConfig", "AutoModelForCausalLM")
    auto_map: dict[str, Any] = dict.fromkeys(names, "own.Words")
    _configure(folder, name, auto_map=auto_map | {"AutoTokenizer": ["own.Words", None]})
    assert code_wanted(folder) is None
    load_model(folder), load_chat_tokenizer(folder)
    assert not ran.exists()


def test_code_is_a_part_of_the_base_only_where_it_is_trusted(base: Path) -> None:
    plain, _ = base_identity(BaseConfig(path=base), {}, online=False)
    trusted, _ = base_identity(BaseConfig(path=base, trust_remote_code=True), {}, online=False)
    assert trusted["files"].keys() - plain["files"].keys() == {"own.py"}
    assert plain["files"].items() <= trusted["files"].items()
