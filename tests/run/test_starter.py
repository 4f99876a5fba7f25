"""`lem init`: what is chosen follows from rows, base and machine, and its file loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lem_train.run.preview as run_preview
import lem_train.run.starter as run_starter
import lem_train.weights.hub as hub
from lem_train.curriculum.load import load_curriculum
from lem_train.errors import ConfigError, DataError, LemError, WeightsError
from lem_train.report.starter import starter_yaml
from lem_train.run.machine import Machine
from lem_train.run.preview import preview_run
from lem_train.run.starter import Starter, choose_starter, written_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = Machine("Linux", "x86_64", 2, 16 * 10**9, "CPU", "Xeon", 16 * 10**9)
FORMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "prompt": lambda text: {"prompt": f"Ask {text}?", "completion": f"Answer {text}."},
    "messages": lambda text: {"messages": _turns(text)},
    "turns": lambda text: {"messages": [*_turns(text), *_turns(f"{text}, again")]},
    "system": lambda text: {
        "id": text,
        "domain": "ethics",
        "messages": [{"role": "system", "content": "Be kind."}, *_turns(text)],
    },
}


def _turns(text: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Ask {text}?"},
        {"role": "assistant", "content": f"Answer {text}."},
    ]


def _write_rows(folder: Path, form: str = "prompt", rows: int = 20) -> Path:
    folder.mkdir(parents=True)
    for split, count in (("train", rows), ("valid", 2)):
        lines = [json.dumps(FORMS[form](f"{split} {number}")) + "\n" for number in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder on a steady machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_starter, "this_machine", lambda: LARGE)
    monkeypatch.setattr(run_preview, "measured_rate", lambda: 1e10)
    return tmp_path


def write(starter: Starter, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(starter_yaml(starter, file))
    return file


@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "mistral"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_loads_and_plans_without_a_warning(
    arch: str, form: str, tiny_folder: Callable[[str], Path]
) -> None:
    data = _write_rows(Path("rows"), form)
    file = Path("curricula/mine.yaml")
    starter = choose_starter(data, str(tiny_folder(arch)), file)
    curriculum = load_curriculum(write(starter, file))
    (phase,) = preview_run(curriculum, Path("runs/mine")).phases
    assert (phase.warnings, phase.stops) == ((), ())
    assert phase.at_once == starter.batch.size
    assert curriculum.phases[0].data.train == (Path("curricula/../rows/train.jsonl"),)
    assert starter.assumed == ()


def test_a_kernel_makes_sandwiches(tiny_folder: Callable[[str], Path]) -> None:
    data = _write_rows(Path("rows"))
    kernel = (Path("kernel.txt"), Path("sig.txt"))
    kernel[0].write_text("Protect what is aware. " * 40)
    kernel[1].write_text("Answer with care.")
    bare, wrapped = (
        choose_starter(data, str(tiny_folder("gemma3")), Path("a.yaml"), files)
        for files in (None, kernel)
    )
    assert wrapped.longest > bare.longest + 100
    curriculum = load_curriculum(write(wrapped, Path("a.yaml")))
    assert curriculum.phases[0].wrap == "sandwich"
    assert curriculum.kernel is not None and curriculum.kernel.text == Path("kernel.txt")
    assert load_curriculum(write(bare, Path("b.yaml"))).kernel is None


# -- what is chosen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "size", "accumulated", "iterations"),
    [(1, 1, 1, 3), (3, 2, 1, 6), (5, 4, 1, 6), (20, 4, 2, 15), (9, 4, 2, 9)],
)
def test_three_epochs_of_updates_of_eight_rows(
    rows: int, size: int, accumulated: int, iterations: int, tiny_folder: Callable[[str], Path]
) -> None:
    data = _write_rows(Path("rows"), rows=rows)
    starter = choose_starter(data, str(tiny_folder("llama")), Path("a.yaml"))
    assert starter.batch.size == size
    assert starter.batch.grad_accumulation_steps == accumulated
    assert starter.iterations == iterations
    assert starter.evaluate_every <= starter.iterations


def test_less_memory_means_fewer_rows_then_recomputation_then_a_word(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps come in this order, whatever the estimates are."""
    data = _write_rows(Path("rows"))
    for split in ("train", "valid"):
        rows = [{"prompt": f"{split} {n}?", "completion": "Patience. " * 1200} for n in range(8)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{split}.jsonl").write_text(text)
    seen = []
    for megabytes in (16000, 2500, 1500, 1000, 150):
        machine = replace(LARGE, memory=megabytes * 10**6, device_memory=megabytes * 10**6)
        monkeypatch.setattr(run_starter, "this_machine", lambda machine=machine: machine)
        starter = choose_starter(data, str(tiny_folder("gemma3")), Path("a.yaml"))
        assert starter.batch.size * starter.batch.grad_accumulation_steps == 8
        curriculum = load_curriculum(write(starter, Path("a.yaml")))
        (phase,) = preview_run(curriculum, Path("runs/a")).phases
        assert phase.at_once == (0 if starter.assumed else starter.batch.size)
        seen.append((starter.gradient_checkpointing, -starter.batch.size, bool(starter.assumed)))
    assert seen[0] == (False, -4, False)
    assert (False, -1, False) in seen and (True, -1, False) in seen
    assert seen[-1] == (True, -1, True)
    assert seen == sorted(seen)


def test_a_long_row_raises_max_tokens(tiny_folder: Callable[[str], Path]) -> None:
    data = _write_rows(Path("rows"))
    long = {"prompt": "Ask?", "completion": "patience " * 2000}
    with (data / "valid.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    starter = choose_starter(data, str(tiny_folder("llama")), Path("a.yaml"))
    assert starter.longest > 1000
    assert 0 <= starter.max_tokens - starter.longest < 256


# -- bases from the hub ------------------------------------------------------------------------


def _unreachable(*_: object, **__: object) -> Any:
    raise hub.Unreachable("base someone/model: no way there")


def test_a_base_that_cannot_be_read_is_assumed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("commit_of", "download_tokenizer"):
        monkeypatch.setattr(hub, name, _unreachable)
    monkeypatch.setattr(hub, "cached_commit", lambda _, revision: revision)
    data = _write_rows(Path("rows"))
    starter = choose_starter(data, "someone/model", Path("a.yaml"))
    assert (starter.revision, starter.gradient_checkpointing) == ("main", True)
    assert starter.batch.size == 1
    text = write(starter, Path("a.yaml")).read_text()
    for said in ("# Assumed: revision main, a branch", "no way there", "size is not known"):
        assert said in text
    assert "the same weights" not in text
    curriculum = load_curriculum(Path("a.yaml"))
    assert curriculum.base.repo == "someone/model"
    assert preview_run(curriculum, Path("runs/a")).notes


def test_a_base_on_the_hub_is_pinned(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(hub, "commit_of", lambda *_: COMMIT)
    monkeypatch.setattr(hub, "download_tokenizer", lambda *_: tiny_folder("gemma3"))
    starter = choose_starter(_write_rows(Path("rows")), "someone/model", Path("a.yaml"))
    assert (starter.revision, starter.assumed) == (COMMIT, ())
    curriculum = load_curriculum(write(starter, Path("a.yaml")))
    assert curriculum.base.revision == COMMIT


def test_a_model_that_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> str:
        raise hub.NoSuchModel("no such model")

    monkeypatch.setattr(hub, "commit_of", unknown)
    with pytest.raises(WeightsError, match="no such model"):
        choose_starter(_write_rows(Path("rows")), "someone/model", Path("a.yaml"))


# -- what is refused ---------------------------------------------------------------------------


def _a_file(data: Path) -> Path:
    return data / "train.jsonl"


def _no_valid(data: Path) -> Path:
    (data / "valid.jsonl").unlink()
    return data


def _nothing_inside(data: Path) -> Path:
    (data / "empty").mkdir()
    return data / "empty"


def _bad_row(data: Path) -> Path:
    (data / "train.jsonl").write_text('{"prompt": "only"}\n')
    return data


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_a_file, "lem data split rows/train.jsonl --out rows/train"),
        (_no_valid, "found no valid.jsonl; divide rows with: lem data split rows/train.jsonl"),
        (_nothing_inside, "rows are JSONL, one conversation a line"),
        (lambda data: data / "nowhere", "found nothing"),
        (_bad_row, "rows/train.jsonl:1"),
    ],
)
def test_data_that_no_curriculum_could_use(
    make: Callable[[Path], Path], told: str, tiny_folder: Callable[[str], Path]
) -> None:
    data = make(_write_rows(Path("rows")))
    with pytest.raises(DataError) as caught:
        choose_starter(data, str(tiny_folder("llama")), Path("a.yaml"))
    assert told in str(caught.value)


@pytest.mark.parametrize("base", ["nowhere", "a/b/c", "owner/two words"])
def test_a_base_that_is_no_name(base: str) -> None:
    with pytest.raises(ConfigError, match="--base: expected a model's folder, or owner/name"):
        choose_starter(_write_rows(Path("rows")), base, Path("a.yaml"))


def test_a_folder_that_is_no_model() -> None:
    with pytest.raises(LemError, match=r"config\.json"):
        choose_starter(_write_rows(Path("rows")), "rows", Path("a.yaml"))


# -- names and paths ---------------------------------------------------------------------------

ODD = ["two words", "it's", 'a "quote"', "null", "1e5", "a: b", "#x", "~me", "-dash", "ü✓🙂", "[x]"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_come_back_as_they_were(name: str, tiny_folder: Callable[[str], Path]) -> None:
    data = _write_rows(Path(name))
    file = Path(f"{name}.yaml")
    starter = choose_starter(data, str(tiny_folder("llama")), file)
    curriculum = load_curriculum(write(starter, file))
    assert curriculum.phases[0].data.train[0].samefile(data / "train.jsonl")
    assert preview_run(curriculum, Path("runs/x")).phases[0].stops == ()


def test_what_lies_outside_the_project_is_named_absolutely(project: Path) -> None:
    inside, outside = project / "in", project / "out"
    (inside / ".git").mkdir(parents=True)
    data = _write_rows(outside / "rows")
    linked = inside / "linked"
    linked.mkdir()
    for name in ("train.jsonl", "valid.jsonl"):
        (linked / name).symlink_to(data / name)
    file = inside / "c" / "a.yaml"
    assert written_path(inside / "x", file) == "../x"
    assert written_path(outside / "x", file) == str(outside / "x")
    splits = ("train.jsonl", "valid.jsonl")
    assert written_path(linked, file, splits) == str(linked)
    assert written_path(linked, file) == "../linked"
