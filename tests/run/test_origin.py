"""lem.json: what travels with a model, what stays on the machine that trained it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lem_train.curriculum.schema import BaseConfig
from lem_train.data.kernel import Kernel, load_kernel
from lem_train.errors import RunError
from lem_train.run.base import base_identity
from lem_train.run.fuse import fuse_run
from lem_train.run.origin import (
    Origin,
    kernel_marks,
    read_origin,
    text_marks,
    write_origin,
)
from lem_train.weights.folder import companions, folder_sha256

if TYPE_CHECKING:
    from conftest import Pico


@pytest.fixture(scope="module")
def model(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico run's last phase, fused. Read it, write nothing into it."""
    out = tmp_path_factory.mktemp("origin") / "model"
    fuse_run(finished, out, None, None, None, lambda origin: origin.run.name)
    return out


def written(folder: Path) -> Origin:
    origin = read_origin(folder)
    assert origin is not None
    return origin


def test_it_holds_the_records_of_the_run(pico: Pico, finished: Path, model: Path) -> None:
    origin, records = written(model), pico.records(finished)
    assert list(origin.phases) == records
    assert origin.run.base == pico.run_record(finished).base
    assert origin.fingerprint == records[-1].fingerprint
    assert origin.all_phases == tuple(record.name for record in records)


def test_no_path_of_the_machine_is_in_it(finished: Path, model: Path) -> None:
    assert str(finished) not in (model / "lem.json").read_text()
    text = json.dumps(json.loads((model / "lem.json").read_text())["run"]["curriculum"])
    assert '"/' not in text
    assert "ethics/train.jsonl" in text


def test_what_is_written_is_what_is_returned(model: Path, tmp_path: Path) -> None:
    origin = written(model)
    run = origin.run.model_copy(update={"name": "/home/someone/golden set"})
    returned = write_origin(tmp_path, origin.model_copy(update={"run": run}))
    assert returned == written(tmp_path)
    assert returned.run.name == "someone/golden set"


def test_the_kernel_is_found_in_a_text_and_cannot_be_read_from_the_record(
    pico: Pico, model: Path
) -> None:
    config = pico.load().kernel
    assert config is not None
    kernel, marks = load_kernel(config), written(model).kernel
    assert marks == kernel_marks(kernel)
    assert set(marks) & text_marks(f"You are helpful. {kernel.text} Answer.")
    assert not set(marks) & text_marks("You are helpful. Answer briefly, and say what you know.")
    eight = " ".join(kernel.text.split()[:8])
    assert eight not in (model / "lem.json").read_text()


def test_a_kernel_that_changed_since_the_training_leaves_no_marks(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Kernel("Another text of more than eight words, for all.", "Care.", "a" * 64, "b" * 64)
    monkeypatch.setattr("lem_train.run.fuse.load_kernel", lambda _: other)
    origin = fuse_run(finished, tmp_path / "model", None, None, None, lambda _: "")
    assert origin.kernel == ()
    assert any(phase.inputs.kernel for phase in origin.phases)


def test_scaled_weights_have_another_fingerprint(model: Path) -> None:
    origin = written(model)
    scaled = [origin.model_copy(update={"scales": {"zen": s}}).fingerprint for s in (0.0, 0.5)]
    assert len({origin.fingerprint, *scaled}) == 3


def test_it_is_no_part_of_the_model(model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "lem.json").unlink()
    assert folder_sha256(bare) == folder_sha256(model)
    assert "lem.json" not in {file.name for file in companions(model, code=False)}
    identities = [base_identity(BaseConfig(path=f), {}, online=False)[0] for f in (bare, model)]
    assert identities[0] == identities[1]


def test_an_edited_one_is_refused(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "edited")
    text = (folder / "lem.json").read_text()
    (folder / "lem.json").write_text(text.replace('"passed": true', '"passed": false', 1))
    if text == (folder / "lem.json").read_text():
        (folder / "lem.json").write_text(text.replace('"seed": ', '"seed": 1', 1))
    with pytest.raises(RunError, match=r"edited or damaged.*or let lem write the folder again"):
        read_origin(folder)


def test_a_folder_without_one_has_no_origin(tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None
