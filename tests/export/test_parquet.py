"""Rows as Parquet: read back they are the same rows, and nothing goes out that must not."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lem_train.cli.main import app
from lem_train.data.jsonl import parse_row
from lem_train.errors import DataError
from lem_train.export import parquet
from lem_train.export.columns import both, feature, fitted, form_of, settled
from lem_train.export.lessons import check_parts, find_parts, read_columns
from lem_train.export.parquet import refuse_unwritable, write_dataset
from lem_train.export.survey import survey
from lem_train.run.origin import DatasetOrigin
from lem_train.run.store import read_record

TEACHER = {"teacher": "gemma", "teacher_sha256": "a1" * 32, "scores": {"grammar": 71.5, "leaks": 0}}
WORDS = (
    "alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "iris", "juniper",
    "kapok", "larch", "maple",
)  # fmt: skip


def row(number: int, **more: Any) -> dict[str, Any]:
    own = f"{WORDS[number % 13]} {number * 7919} {WORDS[number * 5 % 13]}"
    return {
        "id": f"r{number}",
        "domain": "trees",
        "prompt": f"{own}: where does one grow it, and why?",
        "completion": f"Not by the wall. {own} wants {number * 104729} litres, and light.",
        **more,
    }


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
    path.write_text("".join(lines), "utf-8", newline="")
    return path


def lesson(folder: Path, *train: dict[str, Any], valid: tuple[dict[str, Any], ...] = ()) -> Path:
    jsonl(folder / "train.jsonl", *train)
    if valid:
        jsonl(folder / "valid.jsonl", *valid)
    return folder


def export(out: Path, *paths: Path, against: tuple[Path, ...] = ()) -> DatasetOrigin:
    checked = check_parts(find_parts(paths), against)
    return write_dataset(checked, out, "trees", None, lambda record: f"{record.name}\n")


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_lesson_is_one_dataset_with_both_splits(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1), row(2), valid=(row(3),))
    record = export(tmp_path / "out", folder)
    train = read(tmp_path / "out/data/train-00000-of-00001.parquet")
    assert [each["id"] for each in train] == ["r1", "r2"]
    assert train[0]["messages"] == [
        {"role": "user", "content": row(1)["prompt"]},
        {"role": "assistant", "content": row(1)["completion"]},
    ]
    assert [r["id"] for r in read(tmp_path / "out/data/validation-00000-of-00001.parquet")] == [
        "r3"
    ]
    assert [(f.config, f.split, f.rows) for f in record.files] == [
        ("default", "train", 2),
        ("default", "validation", 1),
    ]
    assert (tmp_path / "out/README.md").read_text() == "trees\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oaks", "out"]


def test_lessons_are_configs_and_prompts_stand_beside_their_lesson(tmp_path: Path) -> None:
    lesson(tmp_path / "all/oaks", row(1))
    lesson(tmp_path / "all/far/elms", row(2))
    waiting = [{"id": "p1", "domain": "trees", "prompt": "Where is it?", "generated_by": "gemma"}]
    (tmp_path / "oaks.json").write_text(json.dumps(waiting))
    judged = [
        {"id": "p2", "domain": "trees", "prompt": "Is a palm one?", "check": {"exact": ["No"]}}
    ]
    (tmp_path / "evaluation.json").write_text(json.dumps(judged))
    paths = (tmp_path / "all", tmp_path / "oaks.json", tmp_path / "evaluation.json")
    record = export(tmp_path / "out", *paths)
    assert [file.name for file in record.files] == [
        "far-elms/train-00000-of-00001.parquet",
        "oaks/train-00000-of-00001.parquet",
        "oaks-prompts/train-00000-of-00001.parquet",
        "evaluation-prompts/test-00000-of-00001.parquet",
    ]
    assert read(tmp_path / "out" / record.files[2].name) == waiting
    assert read(tmp_path / "out" / record.files[3].name) == judged
    assert record.configs[2].splits[0].made_by == {"gemma": 1}


def test_lem_json_has_the_hash_of_every_file_and_of_what_it_was_made_of(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1), row(2), valid=(row(3),))
    out = tmp_path / "out"
    export(out, folder)
    record = read_record(out / "lem.json", DatasetOrigin)
    assert record is not None
    for file in record.files:
        data = (out / file.name).read_bytes()
        assert (file.sha256, file.nbytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert file.rows == pq.read_metadata(out / file.name).num_rows
    for source, name in zip(record.sources, ("train.jsonl", "valid.jsonl"), strict=True):
        assert source.name == f"oaks/{name}"
        assert source.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_the_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it an oak?"},
        {"role": "assistant", "content": "It is an elm, by the leaf."},
    ]
    rows = ({"id": "t", "messages": talk}, row(1, distilled=TEACHER))
    split = export(tmp_path / "out", lesson(tmp_path / "oaks", *rows)).configs[0].splits[0]
    signs = [sum(len(turn["content"]) for turn in talk)]
    signs.append(len(row(1)["prompt"]) + len(row(1)["completion"]))
    assert (split.characters.least, split.characters.most) == (min(signs), max(signs))
    assert split.characters.total == sum(signs)
    assert split.words.least == 2 + 4 + 7
    assert split.answer_words is not None and split.answer_words.least == 7
    assert split.turns == {"system": 1, "user": 2, "assistant": 2}
    assert split.domains == {"–": 1, "trees": 1}
    assert split.made_by == {"–": 1, "gemma (a1a1a1a1a1a1)": 1}
    assert split.rows == 2


def test_whatever_else_a_row_holds_becomes_a_column(tmp_path: Path) -> None:
    notes = [
        {"distilled": TEACHER, "checked": True, "age": 3, "share": 1, "tags": ["a", "b"]},
        {"distilled": {**TEACHER, "host": "here"}, "age": None, "share": 0.5, "tags": []},
        {"odd": [1, {"x": None}], "mixed": 1, "": "no name", "huge": 10**30},
        {"mixed": "one", "empty": {}},
    ]
    rows = [row(number, **each) for number, each in enumerate(notes)]
    record = export(tmp_path / "out", lesson(tmp_path / "oaks", *rows))
    found = read(tmp_path / "out" / record.files[0].name)
    config = record.configs[0]
    assert config.json_text == ("odd", "mixed", "huge", "empty")
    for before, after in zip(rows, found, strict=True):
        for key in config.json_text:
            after[key] = _parsed(after[key])
        assert [turn["content"] for turn in after.pop("messages")] == [
            before.pop("prompt"),
            before.pop("completion"),
        ]
        assert _without_nulls(after) == _without_nulls(before)
    types = {each["name"]: each.get("dtype") for each in config.features}
    assert (types["checked"], types["age"], types["share"]) == ("bool", "int64", "float64")
    assert [each["name"] for each in config.features][:3] == ["messages", "id", "domain"]


def _parsed(value: Any) -> Any:
    if isinstance(value, list):  # of which each is text, since they are of several forms
        return [_parsed(item) for item in value]
    return value and json.loads(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(
        st.tuples(st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_conversation_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    talks: list[tuple[str | None, list[tuple[str, str]]]],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = []
    for number, (system, turns) in enumerate(talks):
        messages = [{"role": "system", "content": system}] if system else []
        for asked, answered in turns:
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answered},
            ]
        rows.append({"messages": messages, "id": f"r{number}"})
    (part,) = find_parts([jsonl(folder / "mine.jsonl", *rows)])
    columns = {"messages": settled(form_of(rows[0]["messages"])), "id": "string"}
    written = list(parquet._write_split(part, columns, folder, lambda _: None)[1])
    assert read(folder / written[0].name.split("/")[1]) == rows


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_values_of_any_form_fit_a_column_and_lose_nothing(values: list[Any]) -> None:
    form = form_of(values[0])
    for value in values[1:]:
        form = both(form, form_of(value))
    form = settled(form)
    assert feature("x", form)["name"] == "x"
    for value in values:
        assert _same(_unfit(fitted(value, form), form), value)


def _unfit(value: Any, form: Any) -> Any:
    if value is None:
        return None
    if form == "json":
        return json.loads(value)
    if isinstance(form, tuple):
        return [_unfit(item, form[0]) for item in value]
    return {k: _unfit(value[k], f) for k, f in form.items()} if isinstance(form, dict) else value


def _same(after: Any, before: Any) -> bool:
    """Equal, but that an absent key and null are one."""
    if isinstance(before, dict):
        keys = {**after, **before}
        return all(_same(after.get(key), before.get(key)) for key in keys) or not (before or after)
    if isinstance(before, list):
        return len(after) == len(before) and all(map(_same, after, before))
    if isinstance(after, dict):
        return before is None and not any(value is not None for value in after.values())
    return bool(after == before and isinstance(after, bool) == isinstance(before, bool))


def test_the_rows_of_the_card_train_again(tmp_path: Path) -> None:
    """As the card says: JSONL without the nulls is what lem reads."""
    rows = [row(1, probe="p"), row(2)]
    record = export(tmp_path / "out", lesson(tmp_path / "oaks", *rows))
    for before, after in zip(rows, read(tmp_path / "out" / record.files[0].name), strict=True):
        kept = {key: value for key, value in after.items() if value is not None}
        line = json.dumps(kept, ensure_ascii=False).encode()
        again, first = parse_row(line, "x"), parse_row(json.dumps(before).encode(), "x")
        assert again == first


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(number, distilled=TEACHER) for number in range(40)]
    folder = lesson(tmp_path / "oaks", *rows, valid=(row(50),))
    for out in ("one", "two"):
        export(tmp_path / out, folder)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        for out in ("one", "two")
    )
    assert one == two and len(one) == 4


def test_large_splits_are_several_files_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 4)
    monkeypatch.setattr(parquet, "_SHARD_BYTES", 1500)
    folder = lesson(tmp_path / "oaks", *(row(number) for number in range(30)))
    record = export(tmp_path / "out", folder)
    count = len(record.files)
    assert count > 1 and sum(file.rows for file in record.files) == 30
    names = [f"data/train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    assert [file.name for file in record.files] == names
    ids = [each["id"] for name in names for each in read(tmp_path / "out" / name)]
    assert ids == [f"r{number}" for number in range(30)]
    groups = pq.ParquetFile(tmp_path / "out" / names[0]).metadata
    assert groups.row_group(0).num_rows == 4
    assert groups.row_group(0).column(0).compression == "ZSTD"


def test_long_rows_are_written_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_SIGNS", 300)
    folder = lesson(tmp_path / "oaks", *(row(number) for number in range(9)))
    name = export(tmp_path / "out", folder).files[0].name
    assert pq.ParquetFile(tmp_path / "out" / name).num_row_groups > 2


TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def refusals() -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "a key in an answer", row(2, completion=f"Use {TOKEN} there."), "a Hugging Face token"
    yield "a key in a note", row(2, env={"token": [TOKEN]}), '"env": holds what looks like'
    yield "a key as a name", row(2, env={TOKEN: 1}), '"env": holds what looks like'
    yield (
        "a path in a note",
        row(2, source="/home/jo/rows.txt"),
        '"source": holds what looks like a path of a machine',
    )
    yield "an exact copy", row(1) | {"id": "r2"}, "exact duplicate of"
    yield "an id twice", row(2) | {"id": "r1"}, "id r1 stands at"
    yield "no answer", {"prompt": "Why?"}, "found only prompt"
    yield "half a letter", row(2, note="\ud800"), '"note": expected text, got half of a surrogate'
    yield "kernel", row(2, completion="Well. One two three four five six seven eight."), "kernel"
    yield (
        "kernel in a note",
        row(2, note="one, two three four five six seven EIGHT"),
        '"note": leaks',
    )


@pytest.mark.parametrize(
    ("bad", "said"), [(b, s) for _, b, s in refusals()], ids=[n for n, *_ in refusals()]
)
def test_what_must_not_be_published_is_refused_with_its_place(
    tmp_path: Path, bad: dict[str, Any], said: str
) -> None:
    (tmp_path / "kernel.txt").write_text("one two three four five six seven eight nine")
    folder = tmp_path / "oaks"
    folder.mkdir()
    (folder / "train.jsonl").write_text(f"{json.dumps(row(1))}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError) as failed:
        export(tmp_path / "out", folder, against=(tmp_path / "kernel.txt",))
    assert f"{folder}/train.jsonl:2: " in str(failed.value)
    assert said in str(failed.value)
    assert TOKEN not in str(failed.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel.txt", "oaks"]


def test_habits_are_told_and_written(tmp_path: Path) -> None:
    rows = [
        row(number, completion=f"Of course! {WORDS[number]} is the one.") for number in range(9)
    ]
    checked = check_parts(find_parts([lesson(tmp_path / "oaks", *rows)]), ())
    assert any("stock phrase 'of course!'" in habit for habit in checked.habits)
    record = write_dataset(checked, tmp_path / "out", "x", None, lambda _: "")
    assert record.checks is not None and record.checks.habits == len(checked.habits)


def test_files_that_are_no_part_of_a_lesson_are_refused_together(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1))
    jsonl(folder / "draft.jsonl", row(2))
    jsonl(folder / "draft.rejected.jsonl", row(3))
    (folder / "notes.md").write_text("mine")
    other = tmp_path / "rows.csv"
    other.write_text("a,b")
    paths = (folder, other, tmp_path / "gone", jsonl(tmp_path / "a b.jsonl", row(4)))
    with pytest.raises(DataError) as failed:
        find_parts(paths)
    said = str(failed.value)
    assert f"{folder}/draft.jsonl: expected train.jsonl, valid.jsonl or test.jsonl" in said
    assert f"{other}: expected .jsonl rows, .json prompts or a folder of them" in said
    assert f"{tmp_path}/gone: there is no such file or folder" in said
    assert "got 'a b'" in said
    assert "rejected" not in said and "notes.md" not in said


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    one = lesson(tmp_path / "a/oaks", row(1))
    two = lesson(tmp_path / "b/Oaks", row(2))
    with pytest.raises(DataError, match="would be the train split of Oaks, and so would"):
        find_parts([one, two])
    assert len(find_parts([one, one / "train.jsonl", tmp_path / "a"])) == 1


@pytest.mark.parametrize("there", ["a file in it", "a file"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="new or empty"):
        refuse_unwritable(out)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1))
    checked = check_parts(find_parts([folder]), ())

    def fails(_: DatasetOrigin) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(checked, tmp_path / "out", "x", None, fails)
    assert [path.name for path in tmp_path.iterdir()] == ["oaks"]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1), row(2))
    checked = check_parts(find_parts([folder]), ())
    lesson(folder, row(1))
    with pytest.raises(DataError, match="changed while it was exported"):
        survey(checked)
    lesson(folder, row(1), row(2))
    calls: list[int] = []

    def change(count: int) -> None:
        calls.append(count)
        if len(calls) == 4:  # the last line, read to be written
            (folder / "train.jsonl").write_bytes(b"{}\n")

    with pytest.raises(DataError, match="changed while it was exported"):
        write_dataset(checked, tmp_path / "out", "x", None, lambda _: "", change)
    assert len(calls) == 4


def test_the_command_without_pyarrow_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    folder = lesson(tmp_path / "oaks", row(1))
    done = CliRunner().invoke(app, ["export", "parquet", str(folder), "--out", str(tmp_path / "o")])
    assert isinstance(done.exception, DataError) and done.exception.exit_code == 1
    assert "uv sync --extra parquet" in str(done.exception)


def test_the_command_writes_and_tells(tmp_path: Path) -> None:
    folder = lesson(tmp_path / "oaks", row(1), row(2), valid=(row(3),))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", "parquet", str(folder), "--out", str(out)])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "look at these:\n" in done.stderr and "opens with the same 4 words" in done.stderr
    assert lines[0].split() == ["config", "split", "rows", "words"]
    assert lines[1].split()[:3] == ["default", "train", "2"]
    assert "note: no kernel text (.txt) was named: rows may hold it" in lines
    assert lines[-1].startswith(f"{out}: 3 rows in 2 files, ")
    assert (out / "README.md").read_text().startswith("---\npretty_name: out\n")


def test_columns_are_read_from_either_form(tmp_path: Path) -> None:
    talk = {"messages": [{"content": "x", "role": "user"}, {"role": "assistant", "content": "y"}]}
    (part,) = find_parts([jsonl(tmp_path / "mine.jsonl", talk, row(1))])
    found = [columns for _, columns in read_columns(part)]
    assert found[0] == talk
    assert list(found[1]) == ["messages", "id", "domain"]
