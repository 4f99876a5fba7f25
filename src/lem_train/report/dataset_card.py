"""The dataset card: a record → text. Writes nothing; every number comes from the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from ..run.origin import DatasetConfig, DatasetOrigin, DatasetSplit
from .markdown import code, plain, table
from .numbers import counted, format_bytes

_HUB_LICENCES = {
    "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0",
    "eupl-1.1", "eupl-1.2", "gpl-3.0", "mit", "odc-by", "other", "unknown",
}  # fmt: skip
_SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)  # fmt: skip
_MOST_DOMAINS = 40
_MOST_TYPE = 200  # signs; the metadata above has all of it
_UNFOLDED = 1 << 30
_NOBODY = "–"

_FIELDS = {
    "messages": "the conversation: an optional `system` message, then `user` and `assistant` in "
    "turn, ending with `assistant`",
    "prompt": "what is asked; it waits for an answer",
    "id": "of the row",
    "domain": "what it is about",
    "probe": "what it is one telling of; tellings of one probe stand in one split",
    "generated_by": "the model that wrote the prompt; null for a person",
    "distilled": "the model that wrote the answer, its settings, and what the answer scored",
    "check": "what a right answer is like",
}

_BODY = """\
# {title}

{what}

## Splits

{splits}

Words and characters are of what the messages say, without names of roles; the median is of one row.

## Fields

{fields}

{absent}

## How it was made

{made}

## What it is about

{domains}

## What was checked

{checks}

## How to load it

With `datasets`:

```python
from datasets import load_dataset

rows = load_dataset("OWNER/NAME"{config}, split="{split}")
```
{training}
## Limits

The checks find what has a form: broken rows, copies, keys, the words of a kernel. They say nothing
about whether an answer is right, kind or still true, nor whether somebody can be known from a row.
A model that learns these rows learns their habits as well.

## Licence

{licence}

## Files

{files}

{sources}

## Citation

```bibtex
@misc{{lem-{key},
  title = {{{bibtex}}},
  note  = {{Parquet dataset, fingerprint {fingerprint}}}
}}
```
"""

_TRAINING = """
With [mlx-lm](https://github.com/ml-explore/mlx-lm), in the file given to `mlx_lm.lora --config`:

```yaml
hf_dataset:
  path: OWNER/NAME{name}
  train_split: {train}{valid}
```

With lem, which reads JSONL: write each split as `train.jsonl` or `valid.jsonl`, without the nulls.

```python
import json
from datasets import load_dataset

with open("{file}.jsonl", "w", encoding="utf-8") as file:
    for row in load_dataset("OWNER/NAME"{config}, split="{train}"):
        kept = {{key: value for key, value in row.items() if value is not None}}
        file.write(json.dumps(kept, ensure_ascii=False) + "\\n")
```
"""


class _OneLine(yaml.SafeDumper):
    """Texts on one line each: a line of three dashes within a name would end the metadata."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_OneLine.add_representer(str, _OneLine.represent_str)


def dataset_card(record: DatasetOrigin) -> str:
    """The README.md of a dataset folder, with the metadata by which the hub finds its splits."""
    first = record.configs[0]
    lone = len(record.configs) == 1
    front = yaml.dump(
        _front(record), Dumper=_OneLine, sort_keys=False, allow_unicode=True, width=_UNFOLDED
    )
    body = _BODY.format(
        title=plain(record.name),
        what=_what(record),
        splits=_splits(record),
        fields=_fields(record),
        absent=_absent(record),
        made=_made(record),
        domains=_domains(record),
        checks=_checks(record),
        config="" if lone else f', "{first.name}"',
        split=first.splits[0].name,
        training=_training(record),
        licence=_licence(record.licence),
        files=_files(record),
        sources=_sources(record),
        key=record.fingerprint[:12],
        bibtex=_bibtex(record.name),
        fingerprint=record.fingerprint,
    )
    return f"---\n{front}---\n\n{body}"


def _front(record: DatasetOrigin) -> dict[str, Any]:
    infos = [_info(record, config) for config in record.configs]
    return {
        "pretty_name": record.name,
        **_front_licence(record.licence),
        "task_categories": ["text-generation"],
        "size_categories": [_size(sum(split.rows for _, split in _all(record)))],
        "tags": ["lem"],
        "configs": [_data_files(record, config) for config in record.configs],
        "dataset_info": infos[0] if len(infos) == 1 else infos,
    }


def _front_licence(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {}
    known = licence.lower()
    if known in _HUB_LICENCES:
        return {"license": known}
    return {"license": "other", "license_name": licence}


def _size(rows: int) -> str:
    return next((name for most, name in _SIZES if rows < most), "10M<n<100M")


def _data_files(record: DatasetOrigin, config: DatasetConfig) -> dict[str, Any]:
    paths = []
    for split in config.splits:
        first = next(
            file for file in record.files if (file.config, file.split) == (config.name, split.name)
        )
        folder = first.name.rpartition("/")[0]
        paths.append({"split": split.name, "path": f"{folder}/{split.name}-*"})
    return {"config_name": config.name, "data_files": paths}


def _info(record: DatasetOrigin, config: DatasetConfig) -> dict[str, Any]:
    return {
        "config_name": config.name,
        "features": [dict(feature) for feature in config.features],
        "splits": [
            {"name": split.name, "num_bytes": split.nbytes, "num_examples": split.rows}
            for split in config.splits
        ],
        "download_size": sum(f.nbytes for f in record.files if f.config == config.name),
        "dataset_size": sum(split.nbytes for split in config.splits),
    }


def _all(record: DatasetOrigin) -> Iterator[tuple[DatasetConfig, DatasetSplit]]:
    for config in record.configs:
        for split in config.splits:
            yield config, split


def _rows(record: DatasetOrigin, kind: str) -> int:
    return sum(split.rows for config, split in _all(record) if config.kind == kind)


def _what(record: DatasetOrigin) -> str:
    nouns = {"rows": "conversation", "prompts": "unanswered prompt"}
    told = [counted(n, noun) for kind, noun in nouns.items() if (n := _rows(record, kind))]
    parts = "" if len(record.configs) == 1 else f" in {len(record.configs)} configs"
    by = f" by lem {record.lem_train}" if record.lem_train else ""
    return (
        f"{' and '.join(told)}{parts}, written as Parquet{by}. The rows are in their "
        "files' order and say what they said there, character by character."
    )


def _splits(record: DatasetOrigin) -> str:
    head = ["config", "split", "rows", "messages", "words", "characters", "words in an answer"]
    rows = []
    for config, split in _all(record):
        answers = split.answer_words
        told = [
            config.name,
            split.name,
            f"{split.rows:,}",
            f"{sum(split.turns.values()):,}",
            f"{split.words.total:,} (median {split.words.median:,})",
            f"{split.characters.total:,} (median {split.characters.median:,})",
            _NOBODY
            if answers is None
            else f"{answers.least:,} to {answers.most:,} (median {answers.median:,})",
        ]
        rows.append(told)
    return table(head, rows)


def _fields(record: DatasetOrigin) -> str:
    rows = []
    for config in record.configs:
        for feature in config.features:
            name = feature["name"]
            about = _FIELDS.get(name, "a note of the rows' authors")
            if name in config.json_text:
                about += "; what differs in form from row to row is JSON text"
            of = [] if len(record.configs) == 1 else [config.name]
            rows.append([*of, code(name), code(_type(feature), _MOST_TYPE), about])
    head = ["field", "type", "what it is"]
    return table(head if len(record.configs) == 1 else ["config", *head], rows)


def _absent(record: DatasetOrigin) -> str:
    text = "A field that a row does not have is null."
    if _rows(record, "rows"):
        text += (
            " A row that was written as a prompt and its completion stands here as two messages."
        )
    return text


def _type(feature: dict[str, Any]) -> str:
    if "struct" in feature:
        inner = ", ".join(f"{each['name']}: {_type(each)}" for each in feature["struct"])
        return f"struct<{inner}>"
    if "list" in feature:
        inner = feature["list"]
        if isinstance(inner, str):
            return f"list<{inner}>"
        return f"list<{_type({'struct': inner} if isinstance(inner, list) else inner)}>"
    return str(feature["dtype"])


def _made(record: DatasetOrigin) -> str:
    lines = []
    for kind, noun, part in (("rows", "row", "answer"), ("prompts", "prompt", "words")):
        makers: Counter[str] = Counter()
        for config, split in _all(record):
            if config.kind == kind:
                makers.update(split.made_by)
        for maker, count in makers.most_common():
            if maker == _NOBODY:
                lines.append(f"- {counted(count, noun)} name no model that wrote the {part}")
            else:
                lines.append(f"- {counted(count, noun)}: the {part} written by {plain(maker)}")
    asked: Counter[str] = Counter()
    for _, split in _all(record):
        asked.update(split.asked_by)
    for maker, count in asked.most_common():
        lines.append(f"- {counted(count, 'row')}: the prompt written by {plain(maker)}")
    return "\n".join(lines)


def _domains(record: DatasetOrigin) -> str:
    lines = []
    for config in record.configs:
        found: Counter[str] = Counter()
        for split in config.splits:
            found.update(split.domains)
        named = [f"{plain(name)} {count:,}" for name, count in found.most_common(_MOST_DOMAINS)]
        rest = found.most_common()[_MOST_DOMAINS:]
        if rest:
            named.append(f"{counted(len(rest), 'other')} {sum(count for _, count in rest):,}")
        lines.append(f"- {config.name}: {', '.join(named)}")
    return "\n".join([*lines, "", "Rows by their `domain`, up to its first slash; – for none."])


def _checks(record: DatasetOrigin) -> str:
    found = record.checks
    kernel = (
        f"no run of eight words of {counted(found.kernel_texts, 'kernel text')} stands in a row"
        if found.kernel_texts
        else "**the rows were held against no kernel text**"
    )
    judged = (
        f"none to train on repeats one of {found.judged_by:,} prompts that models are judged by, "
        "or eight words of it in a row"
        if found.judged_by
        else "**the rows were held against no prompts that models are judged by**"
    )
    habits = (
        f"{counted(found.habits, 'remark')} on how the rows are written (near-duplicates from a "
        f"similarity of {found.similarity:g} on, openings alike, stock phrases)"
        if found.habits
        else f"no two rows are near-duplicates (similarity {found.similarity:g}), and neither "
        "openings nor stock phrases are a habit"
    )
    return "\n".join(
        [
            "- form and order of the messages, ids, exact copies: no fault is left",
            "- no text has the form of a key or a password",
            f"- {kernel}",
            f"- {judged}",
            f"- {habits}",
        ]
    )


def _training(record: DatasetOrigin) -> str:
    config = next((config for config in record.configs if config.kind == "rows"), None)
    if config is None:
        return ""
    lone = len(record.configs) == 1
    splits = [split.name for split in config.splits]
    train = splits[0]
    valid = "\n  valid_split: validation" if "validation" in splits[1:] else ""
    return _TRAINING.format(
        name="" if lone else f"\n  config: {{name: {config.name}}}",
        config="" if lone else f', "{config.name}"',
        train=train,
        valid=valid,
        file="valid" if train == "validation" else train,
    )


def _licence(licence: str | None) -> str:
    if licence is None:
        return "None was given. Ask its author before you use it."
    return plain(licence)


def _files(record: DatasetOrigin) -> str:
    rows = [
        [code(file.name), f"{file.rows:,}", format_bytes(file.nbytes), code(file.sha256)]
        for file in record.files
    ]
    return table(["file", "rows", "size", "sha256"], rows)


def _sources(record: DatasetOrigin) -> str:
    named = [f"{code(each.name)} {code(each.sha256)}" for each in record.sources]
    lines = ["They were made of these files, by sha256:", "", *(f"- {line}" for line in named)]
    return "\n".join(lines)


def _bibtex(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in " -.,:" else " " for sign in name)


def dataset_lines(record: DatasetOrigin, out: str, notes: Sequence[str]) -> list[str]:
    """What `lem export parquet` prints: the splits, narrow enough for 60 columns, and the sum."""
    rows = [
        (config.name, s.name, f"{s.rows:,}", f"{s.words.total:,}") for config, s in _all(record)
    ]
    rows.insert(0, ("config", "split", "rows", "words"))
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{config:<{wide[0]}}  {split:<{wide[1]}}  {count:>{wide[2]}}  {spoken:>{wide[3]}}"
        for config, split, count, spoken in rows
    ]
    total = sum(split.rows for _, split in _all(record))
    nbytes = format_bytes(sum(file.nbytes for file in record.files))
    files = counted(len(record.files), "file")
    return [
        *lines,
        "",
        *(f"note: {note}" for note in notes),
        f"{out}: {counted(total, 'row')} in {files}, {nbytes}; see its README.md",
    ]
