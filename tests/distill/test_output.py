"""The files of a distillation: the same bytes however often it was interrupted, and no others."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lem_train.curriculum.schema import DataConfig
from lem_train.data.check import check
from lem_train.data.corpus import find_corpus
from lem_train.data.jsonl import data_sha256, read_phase_data
from lem_train.data.split import split_rows
from lem_train.distill.backend import JSON, Candidate, Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.job import Job, read_distill_prompts
from lem_train.distill.output import opened, recorded, rejected_path
from lem_train.distill.runner import answers, distill
from lem_train.errors import ConfigError, DataError, RunError
from lem_train.hashing import derive_seed
from lem_train.score.probing import Probe

WORDS = """
    she walked told kept asking why does the river sing letters bread waiting hands window bells
    carried choose listen? broke mending truth neighbour owes nothing, and who heard it? lamp
"""


class Speaker:
    """Answers that are a function of seed and prompt; some short, some cut."""

    identity: Mapping[str, JSON] = {"backend": "words", "teacher": "none"}

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(
        self, requests: Sequence[Request], seed: int, check: Callable[[], None]
    ) -> list[list[Candidate]]:
        check()
        self.asked += [request.id for request in requests]
        return [[self._one(derive_seed(seed, r.id, n)) for n in range(2)] for r in requests]

    def _one(self, seed: int) -> Candidate:
        drawn = random.Random(seed)
        text = " ".join(drawn.choices(WORDS.split(), k=drawn.choice((1, 2, 40, 50))))
        return Candidate(text, drawn.random() < 0.8, 50)


def job_of(count: int = 22, **settings: object) -> Job:
    prompts = tuple(Probe(f"q{i}", f"What of {i}, é?", "sea/x") for i in range(count))
    config = DistillConfig(best_of=2, batch_size=5, min_score=20.0).model_copy(update=settings)
    return Job(prompts, config, None, Speaker.identity)


def run(out: Path, job: Job, speaker: Speaker | None = None) -> None:
    with opened(out, job) as output:
        for _ in distill(job, output, answers(job, output, speaker or Speaker(), lambda: None)):
            pass


def contents(out: Path) -> tuple[bytes, bytes]:
    return out.read_bytes(), rejected_path(out).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    out = tmp_path_factory.mktemp("whole") / "a.jsonl"
    run(out, job_of())
    return contents(out)


def rows(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def test_every_prompt_has_a_row_or_all_its_candidates_refused(whole: tuple[bytes, bytes]) -> None:
    kept, refused = map(rows, whole)
    ids = [row["id"] for row in refused]
    answered = {row["id"] for row in kept}
    assert 3 < len(answered) < 19  # both kinds are there, or the tests below say little
    for prompt in job_of().prompts:
        assert (prompt.id in answered) != (ids.count(prompt.id) == 2)
    assert {"truncated", "short"} <= {row["reason"] for row in refused}
    row = kept[0]
    assert list(row) == ["id", "domain", "prompt", "completion", "distilled"]
    own = row["distilled"]
    assert isinstance(own, dict)
    assert own["teacher"] == "none" and own["settings"]["seed"] == 42
    assert own["scores"]["grammar"] >= 20 and own["scores"]["leaks"] is None


def crashed(out: Path, whole: tuple[bytes, bytes], kept: int, refused: int) -> None:
    """Files that end after so many bytes."""
    out.write_bytes(whole[0][:kept])
    rejected_path(out).write_bytes(whole[1][:refused])


def last_unit(whole: tuple[bytes, bytes], unit: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a unit's bytes begin and end, in either file."""
    bounds = []
    for data in whole:
        lengths = [0, 0]
        for line in data.splitlines(keepends=True):
            number = int(str(json.loads(line)["id"])[1:]) // 5
            lengths[0] += len(line) * (number < unit)
            lengths[1] += len(line) * (number <= unit)
        bounds.append((lengths[0], lengths[1]))
    return bounds[0], bounds[1]


@pytest.mark.parametrize("unit", [0, 2, 4])
def test_a_crash_at_any_byte_changes_nothing(
    unit: int, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """A unit's refused candidates are written before its rows, so these are all that can be left:
    a part of the former, or all of them and a part of the latter."""
    (kept, kept_end), (refused, refused_end) = last_unit(whole, unit)
    assert kept < kept_end and refused < refused_end
    cuts = [(kept, at) for at in range(refused, refused_end, 397)]
    cuts += [(kept, refused_end - 1), (kept, refused_end)]
    cuts += [(at, refused_end) for at in range(kept, kept_end, 397)]
    cuts += [(kept_end - 1, refused_end), (kept_end, refused_end)]
    for number, cut in enumerate(cuts):
        out = tmp_path / f"{number}.jsonl"
        crashed(out, whole, *cut)
        speaker = Speaker()
        run(out, job_of(), speaker)
        assert contents(out) == whole, cut
        done = unit + (cut == (kept_end, refused_end))
        assert speaker.asked == [f"q{i}" for i in range(5 * done, 22)], cut


def test_what_is_done_is_not_asked_again_not_even_what_was_rejected(
    whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    out, speaker = tmp_path / "a.jsonl", Speaker()
    crashed(out, whole, len(whole[0]), len(whole[1]))
    run(out, job_of(), speaker)
    assert speaker.asked == [] and contents(out) == whole


def test_other_inputs_are_refused_with_what_differs(
    whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    crashed(out, whole, len(whole[0]), len(whole[1]))
    other = dataclasses.replace(job_of(23, temperature=0.5), identity={"teacher": "me"})
    with pytest.raises(RunError) as error:
        run(out, other)
    said = str(error.value)
    assert f"{out}:1: answers of other inputs" in said
    assert 'teacher: the file has "none", you ask with "me"' in said
    assert 'backend: the file has "words", you ask with null' in said
    assert "temperature: the file has 0.8, you ask with 0.5" in said
    assert "prompts_sha256" in said and "choose another --out" in said
    assert contents(out) == whole


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace(b'"q', b'"x', 1), *lines[1:]],
        lambda lines: [b"{}\n", *lines],
        lambda lines: [b'{"id": "q0"\n', *lines],
        lambda lines: [b"\n", *lines],
        lambda lines: [b'{"prompt": "p", "completion": "c"}\n', *lines],
        lambda lines: [],
    ],
    ids=["taken-out", "moved", "twice", "renamed", "empty", "broken", "blank", "own", "all"],
)
def test_edited_files_are_refused_and_left_alone(
    edit: Callable[[list[bytes]], list[bytes]], whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    edited = b"".join(edit(whole[0].splitlines(keepends=True)))
    crashed(out, (edited, whole[1]), len(edited), len(whole[1]))
    with pytest.raises(RunError, match="choose another --out"):
        run(out, job_of())
    assert contents(out) == (edited, whole[1])


def test_only_one_process_writes(tmp_path: Path) -> None:
    out, job = tmp_path / "a.jsonl", job_of()
    with (
        opened(out, job),
        pytest.raises(RunError, match="another process is writing it"),
        opened(out, job),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was written, so nothing is left


def test_looking_writes_nothing(whole: tuple[bytes, bytes], tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.jsonl"
    assert recorded(out, job_of()).units == 0
    assert not out.parent.exists()
    out = tmp_path / "a.jsonl"
    crashed(out, whole, len(whole[0]) - 3, len(whole[1]))
    before = contents(out)
    assert recorded(out, job_of()).units == 4
    assert contents(out) == before


@pytest.mark.parametrize(
    "name", ["a.json", "a", "a.rejected.jsonl", "folder.jsonl", "a.jsonl/b.jsonl"]
)
def test_names_that_rows_cannot_have_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        run(tmp_path / name, job_of())
    assert {path.name for path in tmp_path.iterdir()} == {"folder.jsonl", "a.jsonl"}


def test_a_disk_that_is_full_names_the_file_and_loses_only_the_unit(
    whole: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "a.jsonl", 0
    write = os.write

    def full(file: int, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2 + 1])  # and the system may write a part only

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as error:
            run(out, job_of())
    assert error.value.filename == str(out)
    run(out, job_of())
    assert contents(out) == whole


def test_the_output_is_a_lesson(whole: tuple[bytes, bytes], tmp_path: Path) -> None:
    """`lem data check` and `split` take it, a phase takes it, and its fingerprint follows it; the
    refused ones beside it are no rows."""
    out = tmp_path / "a.jsonl"
    crashed(out, whole, len(whole[0]), len(whole[1]))
    corpus = find_corpus([tmp_path])
    assert corpus.rows == (out,)
    assert [p for p in check(corpus, 0.7).problems if "opens with" not in p.message] == []
    count = len(rows(whole[0]))
    done = split_rows([out], tmp_path / "split", 0.3)
    assert done.train_rows + done.valid_rows == count
    valid = tmp_path / "split" / "valid.jsonl"
    config = DataConfig(train=(tmp_path / "split" / "train.jsonl",), valid=(valid,))
    data = read_phase_data(config)
    assert len(data.train) + len(data.valid) == count
    assert data.train[0].messages[0].content.startswith("What of ")
    before = data_sha256(config)
    valid.write_bytes(valid.read_bytes().replace(b'"candidate": 1', b'"candidate": 2', 1))
    assert data_sha256(config) != before


def test_prompts_are_refused_that_models_are_judged_by(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-more.json"
    path.write_text('[{"id": "a", "domain": "b", "prompt": "c"}]')
    with pytest.raises(DataError, match="judged by"):
        read_distill_prompts([path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected at least one prompt"),
        ('[{"id": "a", "domain": "b", "prompt": "c"}, {"id": "a", "domain": "b", "prompt": "d"}]',
         "got twice: a"),
        ('[{"id": "a", "domain": "b", "prompt": "\\ud800"}]', "half of a surrogate pair"),
        ('[{"id": "a\\nb", "domain": "b", "prompt": "c"}]', "id: expected text on one line"),
        ('[{"id": "a", "domain": "b", "prompt": "' + "x" * (1 << 20) + 'y"}]', "at most"),
        ("{", "no ["),
    ],
)  # fmt: skip
def test_hostile_prompts_are_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_distill_prompts([path])
    assert said in str(error.value)


def test_units_are_the_same_prompts_whatever_is_left() -> None:
    job = job_of()
    assert [len(unit) for unit in job.units] == [5, 5, 5, 5, 2]
    assert [request.id for unit in job.units for request in unit] == [p.id for p in job.prompts]
