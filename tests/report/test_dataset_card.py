"""The dataset card, from made-up records: the hub's metadata, and every number from the record."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from lem_train.report.dataset_card import dataset_card, dataset_lines
from lem_train.run.origin import (
    DatasetChecks,
    DatasetConfig,
    DatasetFile,
    DatasetOrigin,
    DatasetSplit,
    Lengths,
    SourceFile,
)

MESSAGES = {
    "name": "messages",
    "list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}],
}
NOTE = {
    "name": "note",
    "struct": [{"name": "tags", "list": "string"}, {"name": "x", "dtype": "int64"}],
}


def split(name: str, rows: int, **changes: Any) -> DatasetSplit:
    fields: dict[str, Any] = {
        "name": name,
        "rows": rows,
        "nbytes": 70_000 + rows,
        "characters": Lengths(least=11, median=523, most=2_111, total=98_765),
        "words": Lengths(least=3, median=101, most=419, total=20_123),
        "answer_words": Lengths(least=29, median=83, most=311, total=16_001),
        "turns": {"user": rows, "assistant": rows},
        "domains": {"labour": rows - 1, "–": 1},
        "made_by": {"–": rows},
    }
    return DatasetSplit(**fields | changes)


def config(name: str, *splits: DatasetSplit, **changes: Any) -> DatasetConfig:
    fields: dict[str, Any] = {"name": name, "kind": "rows", "features": (MESSAGES, NOTE)}
    return DatasetConfig(**fields | {"splits": splits} | changes)


def record(*configs: DatasetConfig, **changes: Any) -> DatasetOrigin:
    files = tuple(
        DatasetFile(
            config=each.name,
            split=part.name,
            name=f"{'data' if len(configs) == 1 else each.name}/{part.name}-00000-of-00001.parquet",
            rows=part.rows,
            nbytes=40_000 + part.rows,
            sha256=f"{part.rows:064d}",
        )
        for each in configs
        for part in each.splits
    )
    fields: dict[str, Any] = {
        "name": "lessons",
        "files": files,
        "sources": (SourceFile(config="a", split="train", name="a/train.jsonl", sha256="c" * 64),),
        "configs": configs,
        "checks": DatasetChecks(kernel_texts=2, judged_by=144, similarity=0.7, habits=0),
        "lem_train": "0.1.0",
    }
    return DatasetOrigin(**fields | changes)


LONE = record(config("default", split("train", 364), split("validation", 40)))
TWO = record(config("ethics", split("train", 364)), config("zen", split("train", 65)))


def front(card: str) -> dict[str, Any]:
    metadata: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return metadata


@pytest.mark.parametrize("made", [LONE, TWO], ids=["lone", "two"])
def test_the_hub_reads_the_metadata_as_they_are(made: DatasetOrigin) -> None:
    text = dataset_card(made)
    card = DatasetCard(text, ignore_metadata_errors=False)
    assert isinstance(card.data, DatasetCardData)
    assert card.data.to_dict() == front(text)
    assert card.data.pretty_name == "lessons"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-generation"]
    assert card.text.lstrip().startswith("# lessons\n")


def test_a_lone_config_has_its_files_under_data() -> None:
    metadata = front(dataset_card(LONE))
    assert metadata["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*"},
                {"split": "validation", "path": "data/validation-*"},
            ],
        }
    ]
    assert metadata["dataset_info"] == {
        "config_name": "default",
        "features": [MESSAGES, NOTE],
        "splits": [
            {"name": "train", "num_bytes": 70_364, "num_examples": 364},
            {"name": "validation", "num_bytes": 70_040, "num_examples": 40},
        ],
        "download_size": 80_404,
        "dataset_size": 140_404,
    }
    assert 'load_dataset("OWNER/NAME", split="train")' in dataset_card(LONE)
    assert "  valid_split: validation\n" in dataset_card(LONE)


def test_several_configs_are_loaded_by_name() -> None:
    card = dataset_card(TWO)
    assert [each["config_name"] for each in front(card)["configs"]] == ["ethics", "zen"]
    assert [each["download_size"] for each in front(card)["dataset_info"]] == [40_364, 40_065]
    assert 'load_dataset("OWNER/NAME", "ethics", split="train")' in card
    assert "  config: {name: ethics}\n" in card and "valid_split" not in card


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        (None, {}),
        ("EUPL-1.2", {"license": "eupl-1.2"}),
        ("My own", {"license": "other", "license_name": "My own"}),
    ],
)
def test_the_licence_is_the_makers(licence: str | None, said: dict[str, str]) -> None:
    metadata = front(dataset_card(LONE.model_copy(update={"licence": licence})))
    assert {key: metadata[key] for key in metadata if key.startswith("license")} == said


def test_every_number_is_in_the_record() -> None:
    """Of each figure of the body there is one in the record, whatever its form."""
    made = record(
        config("ethics", split("train", 364, made_by={"gemma": 364}, asked_by={"llama": 17})),
        config("zen", split("train", 65), kind="prompts"),
    )
    body = dataset_card(made).split("---\n", 2)[2].split("## How to load it")[0]
    told = {int(each.replace(",", "")) for each in re.findall(r"(?<![\w.])\d[\d,]*(?![\w.])", body)}
    known = set(map(int, re.findall(r"(?<![\w.])\d+(?![\w.])", made.model_dump_json())))
    sums = {364 + 364, 65 + 65, 2}  # messages of either config, and the configs
    assert told <= known | sums
    assert {364, 65, 17, 144, 20_123, 98_765, 523, 101, 29, 311, 83, 363, 64} <= told


def test_checks_that_were_not_made_are_not_claimed() -> None:
    found = DatasetChecks(kernel_texts=0, judged_by=0, similarity=0.7, habits=3)
    card = dataset_card(LONE.model_copy(update={"checks": found}))
    assert "**the rows were held against no kernel text**" in card
    assert "**the rows were held against no prompts that models are judged by**" in card
    assert "3 remarks on how the rows are written" in card
    assert "no run of eight words of 2 kernel texts stands in a row" in dataset_card(LONE)


def test_models_that_wrote_rows_are_named() -> None:
    made = record(config("default", split("train", 9, made_by={"gemma (a1)": 5, "–": 4})))
    card = dataset_card(made)
    assert "- 5 rows: the answer written by gemma (a1)\n" in card
    assert "- 4 rows name no model that wrote the answer\n" in card


@pytest.mark.parametrize("name", ["a | b", "---\nlicense: mit", "<b>x</b>", "`x`", "# x", "a}b{"])
def test_names_of_others_break_nothing(name: str) -> None:
    note = {"name": name, "dtype": "string"}
    made = record(
        config("default", split("train", 9, domains={name: 9}), features=(MESSAGES, note)),
        name=name,
    )
    card = dataset_card(made)
    assert front(card)["pretty_name"] == name and "license" not in front(card)
    assert DatasetCard(card).data.pretty_name == name
    table = card[card.index("| field |") :].split("\n\n")[0].splitlines()
    assert len(table) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}
    assert "<b>" not in card.split("## What it is about")[1].split("##")[0]


def test_columns_of_json_text_are_told() -> None:
    card = dataset_card(record(config("default", split("train", 9), json_text=("note",))))
    (line,) = [line for line in card.splitlines() if line.startswith("| `note`")]
    assert "`struct<tags: list<string>, x: int64>`" in line and "JSON text" in line


def test_the_lines_fit_a_narrow_screen() -> None:
    lines = dataset_lines(TWO, "out", ["no kernel text"])
    assert lines == [
        "config  split  rows   words",
        "ethics  train   364  20,123",
        "zen     train    65  20,123",
        "",
        "note: no kernel text",
        "out: 429 rows in 2 files, 80 kB; see its README.md",
    ]
