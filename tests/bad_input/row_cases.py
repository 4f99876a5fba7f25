"""Rows, prompts and kernel files that cannot be trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from catalogue import Case, Project

Change = Callable[[Project], object]

TRAIN = "rows/train.jsonl"
BROKEN = "expected a JSON object, got broken JSON"


def row(line: str | bytes) -> Change:
    """Instead of the second row to train on."""

    def change(project: Project) -> None:
        rows = (project.root / TRAIN).read_bytes().split(b"\n")
        rows[1] = line if isinstance(line, bytes) else line.encode()
        project.write(TRAIN, b"\n".join(rows))

    return change


def messages(*turns: tuple[str, Any]) -> str:
    """A row of turns: role and content."""
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def pair(**changes: Any) -> str:
    """A sound row but for the changes."""
    return json.dumps({"prompt": "Who is there?", "completion": "Nobody."} | changes)


def file(content: str | bytes, name: str = TRAIN) -> Change:
    """Another file of the project."""
    return lambda project: project.write(name, content)


def recoded(coding: str) -> Change:
    """The rows to train on in another encoding."""

    def change(project: Project) -> None:
        project.write(TRAIN, (project.root / TRAIN).read_text().encode(coding))

    return change


def of_100_megabytes(project: Project) -> None:
    """A row that never ends; on the disk it has a few bytes."""
    with (project.root / TRAIN).open("ab") as rows:
        rows.write(b'{"prompt": "')
        rows.truncate(100_000_000)


def with_model(line: str, *settings: str) -> Change:
    """A row, a real tokenizer to read it, and settings of the bare phase."""

    def change(project: Project) -> None:
        project.with_model()
        project.edit("pico.yaml", "wrap: sandwich", "wrap: none")
        for setting in settings:
            project.edit("pico.yaml", "defaults:\n", f"defaults:\n  {setting}\n")
        row(line)(project)

    return change


def seeds(content: str | bytes) -> Change:
    """Prompts in a JSON file."""
    return file(content, "seeds.json")


def in_train(
    name: str, change: Change, expected: str, found: str, place: str = f"{TRAIN}:2: "
) -> Case:
    """What `lem train` says of rows."""
    return Case(f"rows: {name}", change, place, expected, found)


def in_check(
    name: str,
    change: Change,
    expected: str,
    found: str,
    place: str = f"{TRAIN}:2: ",
    of: str = "rows",
) -> Case:
    """What `lem data check` says of rows and prompts."""
    return Case(f"check: {name}", change, place, expected, found, args=("data", "check", of))


def in_seeds(name: str, content: str | bytes, expected: str, found: str, line: str = ":1") -> Case:
    """What `lem data check` says of a file of prompts."""
    return in_check(name, seeds(content), expected, found, f"seeds.json{line}: ", "seeds.json")


TEXT = "expected text, got"
EITHER = "expected either messages, or prompt and completion"
ROLES = "expected one of system, user, assistant"
USER, ANSWER = ("user", "Who is there?"), ("assistant", "Nobody.")
PROMPT = '{"id": "a", "domain": "d", "prompt": "Which way is the harbour?"}'

BYTES = [
    in_train("a line that was cut off", row(pair()[:-9]), BROKEN, "Unterminated string"),
    in_train("a row that is not closed", row(pair()[:-1]), BROKEN, "Expecting ',' delimiter"),
    in_train(
        "a byte order mark",
        lambda p: p.write(TRAIN, b"\xef\xbb\xbf" + (p.root / TRAIN).read_bytes()),
        "expected UTF-8 without a byte order mark",
        "save the file without BOM",
        f"{TRAIN}:1: ",
    ),
    in_train(
        "UTF-16, little-endian, with its mark",
        recoded("utf-16"),
        "expected UTF-8",
        "got UTF-16",
        f"{TRAIN}: ",
    ),
    in_train(
        "UTF-16, little-endian", recoded("utf-16-le"), "expected UTF-8", "got UTF-16", f"{TRAIN}: "
    ),
    in_train(
        "UTF-16, big-endian", recoded("utf-16-be"), "expected UTF-8", "got UTF-16", f"{TRAIN}: "
    ),
    in_train(
        "a compressed file",
        file(b"\x1f\x8b\x08\x00" + bytes(range(1, 256)) * 9),
        "expected UTF-8",
        "binary data",
        f"{TRAIN}: ",
    ),
    in_train(
        "a NUL in a text",
        lambda p: p.write(TRAIN, (p.root / TRAIN).read_bytes() + b" " * 2000 + b'{"a": "\0"}'),
        BROKEN,
        "Invalid control character",
        f"{TRAIN}:5: ",
    ),
    in_train("Latin-1 in a row", row(b'{"prompt": "caf\xe9"}'), "expected UTF-8", "got byte 0xe9"),
    in_train(
        "half a surrogate pair as bytes",
        row(b'{"prompt": "\xed\xa0\x80"}'),
        "expected UTF-8",
        "got byte 0xed",
    ),
    in_train(
        "half a surrogate pair, escaped",
        row('{"prompt": "\\ud83d", "completion": "b"}'),
        "prompt: expected text",
        "got half of a surrogate pair",
    ),
    in_train(
        "a row of 100 MB",
        of_100_megabytes,
        "expected at most 4,194,304 bytes in a row",
        "got 99,999,",
        f"{TRAIN}:5: ",
    ),
    in_train("an empty file", file(""), "expected at least one row", "found none", f"{TRAIN}: "),
    in_train(
        "a file of blank lines",
        file("\n \n\t\n"),
        "expected at least one row",
        "found none",
        f"{TRAIN}: ",
    ),
]

SYNTAX = [
    in_train("two rows on a line", row(pair() + pair()), BROKEN, "Extra data"),
    in_train("a comma after the row", row(pair() + ","), BROKEN, "Extra data"),
    in_train(
        "a comma after the last key",
        row(pair()[:-1] + ",}"),
        BROKEN,
        "Expecting property name enclosed in double quotes",
    ),
    in_train("single quotes", row(str(json.loads(pair()))), BROKEN, "Expecting property name"),
    in_train("10,000 brackets deep", row("[" * 10_000), BROKEN, "nested too deep"),
    in_train("10,000 keys deep", row('{"a": ' * 10_000), BROKEN, "nested too deep"),
    in_train("NaN", row(pair(score=float("nan"))), BROKEN, "NaN is no JSON value"),
    in_train("an infinity", row(pair(score=float("inf"))), BROKEN, "Infinity is no JSON value"),
    in_train(
        "a number of 5,000 digits",
        row(pair(score=1)[:-1] + "0" * 5000 + "}"),
        BROKEN,
        "a number with too many digits",
    ),
    in_train("a list for a row", row("[1, 2]"), "expected a JSON object", "got [1, 2]"),
    in_train("a string for a row", row('"Who?"'), "expected a JSON object", 'got "Who?"'),
    in_train("a number for a row", row("7"), "expected a JSON object", "got 7"),
    in_train("null for a row", row("null"), "expected a JSON object", "got null"),
    in_train(
        "a key twice",
        row('{"prompt": "a", "prompt": "b", "completion": "c"}'),
        "expected every key once",
        'got twice: ["prompt"]',
    ),
    in_train(
        "a key twice in a message",
        row('{"messages": [{"role": "user", "role": "user", "content": "a"}]}'),
        "expected every key once",
        'got twice: ["role"]',
    ),
]

FORM = [
    in_train("neither form", row('{"text": "a"}'), EITHER, 'found keys "text"'),
    in_train("no key at all", row("{}"), EITHER, "found keys none"),
    in_train(
        "both forms at once",
        row(pair(messages=json.loads(messages(USER, ANSWER))["messages"])),
        EITHER,
        "found messages, prompt, completion",
    ),
    in_train("only a prompt", row('{"prompt": "a"}'), EITHER, "found only prompt"),
    in_train("only a completion", row('{"completion": "a"}'), EITHER, "found only completion"),
    in_train("null for a prompt", row(pair(prompt=None)), "prompt: expected text", "got null"),
    in_train("a number for a prompt", row(pair(prompt=7)), "prompt: expected text", "got 7"),
    in_train(
        "a list for a completion", row(pair(completion=["a"])), f"completion: {TEXT}", '["a"]'
    ),
    in_train("true for a completion", row(pair(completion=True)), f"completion: {TEXT}", "true"),
    in_train("an empty prompt", row(pair(prompt="")), f"prompt: {TEXT}", "nothing but white space"),
    in_train(
        "a completion of white space",
        row(pair(completion=" \n\u00a0\t")),
        f"completion: {TEXT}",
        "nothing but white space",
    ),
    in_train(
        "a string for messages",
        row('{"messages": "Who?"}'),
        "messages: expected a list of messages",
        'got "Who?"',
    ),
    in_train(
        "no messages",
        row('{"messages": []}'),
        "messages: expected a list of messages",
        "got []",
    ),
    in_train(
        "a string for a message",
        row('{"messages": ["Who?"]}'),
        "messages[0]: expected an object with role and content",
        'got "Who?"',
    ),
    in_train(
        "a key too many in a message",
        row('{"messages": [{"role": "user", "content": "a", "name": "b"}]}'),
        "messages[0]: expected role and content only",
        'got also "name"',
    ),
    in_train(
        "a message without content",
        row('{"messages": [{"role": "user"}]}'),
        "messages[0].content: expected text",
        "got null",
    ),
    in_train(
        "an object for a content",
        row(messages(("user", {"text": "Who?"}), ANSWER)),
        "messages[0].content: expected text",
        'got {"text": "Who?"}',
    ),
    in_train(
        "an empty answer",
        row(messages(USER, ("assistant", ""))),
        "messages[1].content: expected text",
        "nothing but white space",
    ),
    in_train(
        "a role that is unknown",
        row(messages(USER, ("bot", "Nobody."))),
        f"messages[1].role: {ROLES}",
        'got "bot"',
    ),
    in_train(
        "a number for a role",
        row('{"messages": [{"role": 1, "content": "a"}]}'),
        f"messages[0].role: {ROLES}",
        "got 1",
    ),
    in_train(
        "two users in a row",
        row(messages(USER, USER, ANSWER)),
        "messages[1].role: expected assistant",
        "got user",
    ),
    in_train(
        "a system message in the middle",
        row(messages(USER, ANSWER, ("system", "Be kind."), USER, ANSWER)),
        "messages[2].role: expected user",
        "got system",
    ),
    in_train(
        "an assistant who begins",
        row(messages(ANSWER, USER, ANSWER)),
        "messages[0].role: expected user",
        "got assistant",
    ),
    in_train(
        "a user who has the last word",
        row(messages(USER, ANSWER, USER)),
        "messages: expected the last turn to be the assistant's",
        "got user",
    ),
    in_train("a number for an id", row(pair(id=7)), "id: expected text on one line", "got 7"),
    in_train("an empty id", row(pair(id="")), "id: expected text on one line", 'got ""'),
    in_train(
        "an id that ends a line",
        row(pair(id="a\nb")),
        "id: expected text on one line",
        'got "a\\nb"',
    ),
    in_train(
        "an id that moves the cursor",
        row(pair(id="\x1b[2J")),
        "id: expected text on one line",
        'got "\\u001b[2J"',
    ),
]


def twice(project: Project) -> None:
    rows = (project.root / TRAIN).read_text().splitlines()
    project.write(TRAIN, "\n".join([*rows, rows[1]]) + "\n")


def held_out_too(project: Project) -> None:
    project.write("rows/valid.jsonl", (project.root / TRAIN).read_text().splitlines()[2])


def in_both_forms(project: Project) -> None:
    first = json.loads((project.root / TRAIN).read_text().splitlines()[0])
    row(messages(("user", first["prompt"]), ("assistant", first["completion"])))(project)


DUPLICATES = [
    in_train(
        "a row twice", twice, "remove one of them", f"exact duplicate of {TRAIN}:2", f"{TRAIN}:5: "
    ),
    in_train(
        "a row to train on that is held out too",
        held_out_too,
        "remove one of them",
        f"exact duplicate of {TRAIN}:3",
        "rows/valid.jsonl:1: ",
    ),
    in_train(
        "a row again in the other form",
        in_both_forms,
        "remove one of them",
        f"exact duplicate of {TRAIN}:1",
    ),
]

LONG = "word " * 400
TOKENS = [
    in_train(
        "a control token in an answer",
        with_model(pair(completion="Nobody.<end_of_turn>")),
        "expected plain text",
        "messages[1] holds a control token",
    ),
    in_train(
        "a control token in a prompt",
        with_model(pair(prompt="<start_of_turn>model\nWho?")),
        "expected plain text",
        "messages[0] holds a control token",
    ),
    in_train(
        "a row that is too long",
        with_model(pair(prompt=LONG), "max_tokens: 256"),
        "expected at most 256 tokens (max_tokens)",
        f"in row {TRAIN}:2",
    ),
    in_train(
        "an answer that is too long for a trimmed prompt",
        with_model(pair(completion=LONG), "max_tokens: 256", "overlong: trim_prompt"),
        "expected at most 256 tokens",
        "of them are prompt",
    ),
    in_train(
        "no row that is short enough",
        with_model(pair(), "max_tokens: 8", "overlong: drop"),
        "expected train rows of at most 8 tokens",
        "all 4 are longer",
        "phase first: ",
    ),
    in_train(
        "a system message where the kernel is one",
        lambda p: (
            with_model(messages(("system", "Be kind."), USER, ANSWER))(p),
            p.edit("pico.yaml", "wrap: none", "wrap: system"),
        ),
        "expected no system message where wrap is system",
        "the kernel stands there",
    ),
]

KERNEL = [
    in_train(
        "an empty kernel",
        file("", "kernel.txt"),
        "expected text",
        "got nothing but white space",
        "kernel.txt: ",
    ),
    in_train(
        "a kernel of white space",
        file(" \n\n", "signature.txt"),
        "expected text",
        "got nothing but white space",
        "signature.txt: ",
    ),
    in_train(
        "a kernel in Latin-1",
        file(b"caf\xe9 au lait", "kernel.txt"),
        "expected UTF-8",
        "at byte 3",
        "kernel.txt: ",
    ),
    in_train(
        "a kernel with a byte order mark",
        file(b"\xef\xbb\xbfProtect.", "kernel.txt"),
        "expected UTF-8 without",
        "a byte order mark",
        "kernel.txt: ",
    ),
    in_train(
        "a kernel that is gone",
        lambda project: (project.root / "signature.txt").unlink(),
        "kernel.signature: expected a file",
        "found nothing at signature.txt",
        "(pico.yaml:3)",
    ),
]

CHECKED = [
    in_check("a line that was cut off", row(pair()[:-9]), BROKEN, "Unterminated string"),
    in_check("a list for a row", row("[1, 2]"), "expected a JSON object", "got [1, 2]"),
    in_check(
        "UTF-16", recoded("utf-16"), "expected UTF-8", "got UTF-16 or binary data", f"{TRAIN}: "
    ),
    in_check(
        "a row of 100 MB",
        of_100_megabytes,
        "expected at most 4,194,304 bytes in a row",
        "got 99,999,",
        f"{TRAIN}:5: ",
    ),
    in_check("10,000 brackets deep", row("[" * 10_000), BROKEN, "nested too deep"),
    in_check(
        "two users in a row",
        row(messages(USER, USER, ANSWER)),
        "messages[1].role: expected assistant",
        "got user",
    ),
    in_check("an empty file", file(""), "expected at least one row", "found none", f"{TRAIN}: "),
    in_check(
        "a path that is not there",
        lambda project: None,
        "there is no such file or folder",
        "none.jsonl",
        "none.jsonl: ",
        "none.jsonl",
    ),
    in_check(
        "a file of another kind",
        lambda project: None,
        "expected .jsonl, .json, .txt or a folder",
        "pico.yaml",
        "pico.yaml: ",
        "pico.yaml",
    ),
    in_check(
        "a pipe in a folder",
        lambda project: os.mkfifo(project.root / "rows" / "more.jsonl"),
        "expected a file or a folder",
        "a pipe",
        "rows/more.jsonl: ",
    ),
    in_check(
        "a link to nothing in a folder",
        lambda project: (project.root / "rows" / "more.jsonl").symlink_to("gone.jsonl"),
        "expected a file or a folder",
        "a link to nothing",
        "rows/more.jsonl: ",
    ),
]

SEEDS = [
    in_seeds("prompts in an object", PROMPT, "expected an array of prompts", "it begins with no ["),
    in_seeds("no prompts", "[]", "expected at least one prompt", "found none", ""),
    in_seeds("an empty file of prompts", "", "expected an array of prompts", "it begins with no ["),
    in_seeds(
        "a number for a prompt",
        f"[\n{PROMPT},\n7]",
        "expected an object with id, domain, prompt",
        "got int",
        ":3",
    ),
    in_seeds("numbers in a prompt", '[{"id": 1}]', "id: expected text", "got 1"),
    in_seeds(
        "a prompt without a domain",
        '[{"id": "a", "prompt": "b"}]',
        "domain: expected text",
        "got null",
    ),
    in_seeds(
        "a key too many in a prompt",
        f"[{PROMPT[:-1]}" + ', "answer": "b"}]',
        "expected id, domain, prompt, probe, generated_by only",
        'got also ["answer"]',
    ),
    in_seeds(
        "half of a surrogate pair as key",
        f"[{PROMPT[:-1]}" + ', "\\ud83d": "b"}]',
        "expected id, domain, prompt, probe, generated_by only",
        'got also ["\\ud83d"]',
    ),
    in_seeds(
        "an array that is not closed", f"[{PROMPT}", "expected , or ]", "got broken JSON", ":1"
    ),
    in_seeds(
        "a comma after the last prompt",
        f"[{PROMPT},]",
        "expected an array of prompts",
        "got broken JSON: Expecting value",
    ),
    in_seeds("prompts in Latin-1", b'[{"id": "caf\xe9"}]', "expected UTF-8", "at byte 12", ""),
    in_seeds(
        "prompts 10,000 deep", "[" * 10_000, "expected an array of prompts", "nested too deep", ""
    ),
    in_seeds(
        "a prompt of 5,000 digits",
        f"[{'9' * 5000}]",
        "expected an array of prompts",
        "a number with too many digits",
        "",
    ),
    in_seeds(
        "a prompt twice",
        f"[{PROMPT},\n{PROMPT}]",
        "exact duplicate of",
        "seeds.json:1",
        ":2",
    ),
]

CASES = [*BYTES, *SYNTAX, *FORM, *DUPLICATES, *TOKENS, *KERNEL, *CHECKED, *SEEDS]
