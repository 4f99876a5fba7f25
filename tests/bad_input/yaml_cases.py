"""Curricula that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable

from catalogue import Case, Project

Change = Callable[[Project], object]


def edit(old: str, new: str) -> Change:
    """The curriculum with a part of it replaced."""
    return lambda project: project.edit("pico.yaml", old, new)


def whole(content: str | bytes) -> Change:
    """Another file instead of the curriculum."""
    return lambda project: project.write("pico.yaml", content)


def train_files(value: str) -> Change:
    """The first phase with files instead of a folder, and this for those to train on."""
    return edit("data: rows", f"data: {{train: {value}, valid: [rows/valid.jsonl]}}")


def below(lines: str) -> Change:
    """The curriculum with top-level lines from its second line on."""
    return edit("name: pico\n", f"name: pico\n{lines}\n")


def sound(project: Project) -> None:
    """The curriculum is as it should be: what is wrong stands on the command line."""


def with_set(*settings: str, place: str, expected: str, found: str) -> Case:
    """A sound curriculum and `--set`."""
    args = ("train", "pico.yaml", *(part for each in settings for part in ("--set", each)))
    return Case(f"--set {' '.join(settings)[:50]}", sound, place, expected, found, args)


def bomb(project: Project) -> None:
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    project.write("pico.yaml", "\n".join(lines) + "\n")


def in_place_of(file: str, put: Callable[[Project], object]) -> Change:
    """Something else where a file was."""

    def change(project: Project) -> None:
        (project.root / file).unlink()
        put(project)

    return change


def link_loop(project: Project) -> None:
    (project.root / "a").symlink_to("b")
    (project.root / "b").symlink_to("a")
    project.edit("pico.yaml", "data: rows", "data: a")


def link_out(project: Project) -> None:
    """A lesson of which one file is a link to another project's."""
    outside = project.root.parent / "outside.jsonl"
    (project.root / "rows" / "valid.jsonl").rename(outside)
    (project.root / "rows" / "valid.jsonl").symlink_to(outside)


def folder_link_out(project: Project) -> None:
    (project.root / "rows").rename(project.root.parent / "outside")
    (project.root / "rows").symlink_to("../outside")


def no_train_file(project: Project) -> None:
    (project.root / "rows" / "train.jsonl").unlink()


NAME = "a name of a-z, 0-9, - and _ that starts with a letter or a digit"
UTF8 = "expected UTF-8 text"
CHECK = "check the indentation, the colons and the quotes"
WRITE_OUT = "write the value out"

FORM = [
    Case(
        "a tab for indentation",
        edit("  lora:", "\tlora:"),
        place="pico.yaml:5",
        expected="indent with spaces",
        found="a tab",
    ),
    Case(
        "a tab before a value",
        edit("name: pico", "name:\n\tpico"),
        place="pico.yaml:2",
        expected="indent with spaces",
        found="a tab",
    ),
    Case(
        "a key twice at the top level",
        below("name: other"),
        place="name: duplicate key, first on line 1",
        expected="keep one",
        found="(pico.yaml:2)",
    ),
    Case(
        "a key twice in a mapping",
        edit("{tiny: gemma3}", "{tiny: gemma3, tiny: llama}"),
        place="(pico.yaml:2)",
        expected="keep one",
        found="base.tiny: duplicate key",
    ),
    Case(
        "a key twice in a phase",
        edit("iterations: 2}", "iterations: 2, wrap: none}"),
        place="(pico.yaml:9)",
        expected="keep one",
        found="phases[0].wrap: duplicate key",
    ),
    Case(
        "an anchor",
        edit("rank: 4", "rank: &rank 4"),
        place="pico.yaml:5",
        expected=WRITE_OUT,
        found="anchor &rank",
    ),
    Case(
        "an alias",
        edit("rank: 4", "rank: *rank"),
        place="pico.yaml:5",
        expected=WRITE_OUT,
        found="alias *rank",
    ),
    Case("a bomb of aliases", bomb, place="pico.yaml:30", expected=WRITE_OUT, found="alias *a28"),
    Case(
        "an alias to what it stands in",
        edit("{tiny: gemma3}", "&base {tiny: *base}"),
        place="pico.yaml:2",
        expected=WRITE_OUT,
        found="alias *base",
    ),
    Case(
        "a merge key",
        edit("{name: first,", "{<<: {seed: 1}, name: first,"),
        place="(pico.yaml:9)",
        expected="use defaults",
        found="phases[0]: merge key <<",
    ),
    Case(
        "a tag that would run a command",
        edit("pico", '!!python/object/apply:os.system ["touch ran"]'),
        place="pico.yaml:1",
        expected="write the plain value",
        found="tag tag:yaml.org,2002:python/object/apply:os.system",
    ),
    Case(
        "a tag of YAML's own",
        edit("pico", "!!str pico"),
        place="pico.yaml:1",
        expected="write the plain value",
        found="tag tag:yaml.org,2002:str",
    ),
    Case(
        "a tag of somebody's own",
        edit("{tiny: gemma3}", "!model {tiny: gemma3}"),
        place="pico.yaml:2",
        expected="write the plain value",
        found="tag !model",
    ),
    Case(
        "two documents",
        lambda project: project.write("pico.yaml", "name: a\n---\nname: b\n"),
        place="pico.yaml:2",
        expected="a curriculum is one",
        found="a second document",
    ),
    Case(
        "an empty file",
        whole(""),
        place="pico.yaml:1",
        expected="expected name, base and phases",
        found="the file is empty",
    ),
    Case(
        "comments alone",
        whole("# name: pico\n# base: {tiny: gemma3}\n"),
        place="pico.yaml:1",
        expected="expected name, base and phases",
        found="the file is empty",
    ),
    Case(
        "a list at the top level",
        whole("# phases\n- {name: first}\n"),
        place="pico.yaml:2",
        expected="expected a mapping at the top level",
        found="got a list",
    ),
    Case(
        "a word at the top level",
        whole("gemma3\n"),
        place="pico.yaml:1",
        expected="expected a mapping at the top level",
        found='got "gemma3"',
    ),
    Case(
        "a bracket that is not closed",
        edit("{tiny: gemma3}", "{tiny: gemma3"),
        place="pico.yaml:3",
        expected="expected ',' or '}'",
        found="but got",
    ),
    Case(
        "a quote that is not closed",
        edit("name: pico", 'name: "pico'),
        place="pico.yaml:11",
        expected=CHECK,
        found="unexpected end of stream",
    ),
    Case(
        "a colon in a plain value",
        edit("name: pico", "name: pico: x"),
        place="pico.yaml:1",
        expected=CHECK,
        found="mapping values are not allowed here",
    ),
    Case(
        "indentation that fits nowhere",
        edit("  optimizer:", "   optimizer:"),
        place="pico.yaml:6",
        expected=CHECK,
        found="not YAML",
    ),
    Case(
        "a list as key",
        below("[a, b]: c"),
        place="pico.yaml:2",
        expected="expected plain words as keys",
        found="got a collection",
    ),
    Case(
        "10,000 brackets deep",
        edit("{tiny: gemma3}", "[" * 10_000 + "]" * 10_000),
        place="pico.yaml:2",
        expected="a curriculum is flat",
        found="nested more than 32 deep",
    ),
    Case(
        "10,000 keys deep",
        edit("{tiny: gemma3}", "{a: " * 10_000),
        place="pico.yaml:2",
        expected="a curriculum is flat",
        found="nested more than 32 deep",
    ),
    Case(
        "a binary file",
        whole(b"\x7fELF\x02\x01\x01\x00" + bytes(range(256))),
        place="pico.yaml:2",
        expected=UTF8,
        found="got byte 0x80",
    ),
    Case(
        "UTF-16 with a byte order mark",
        whole("name: pico\n".encode("utf-16")),
        place="pico.yaml:1",
        expected=UTF8,
        found="got byte 0xff",
    ),
    Case(
        "UTF-16 without a byte order mark",
        whole("name: pico\n".encode("utf-16-le")),
        place="pico.yaml:1",
        expected="remove it",
        found="control character U+0000",
    ),
    Case(
        "Latin-1",
        whole("name: pico\n# café\n".encode("latin-1")),
        place="pico.yaml:2",
        expected=UTF8,
        found="got byte 0xe9",
    ),
    Case(
        "a NUL",
        edit("gemma3", "gem\0ma3"),
        place="pico.yaml:2",
        expected="remove it",
        found="control character U+0000",
    ),
    Case(
        "an escape sequence of a terminal",
        edit("gemma3", "\x1b[31mgemma3"),
        place="pico.yaml:2",
        expected="remove it",
        found="control character U+001B",
    ),
    Case(
        "half of a surrogate pair",
        edit("gemma3", '"\\ud83d"'),
        place="pico.yaml:2",
        expected="write the character itself",
        found="an escape of half a character",
    ),
    Case(
        "an escape beyond Unicode",
        edit("gemma3", '"\\UFFFFFFFF"'),
        place="pico.yaml:2",
        expected="write the character itself",
        found="out of range",
    ),
]

FILE = [
    Case(
        "no such curriculum",
        sound,
        place="none.yaml",
        expected="expected a curriculum, e.g. curricula/smoke.yaml",
        found="no such file",
        args=("train", "none.yaml"),
    ),
    Case(
        "a folder for a curriculum",
        sound,
        place="rows",
        expected="expected a curriculum in it",
        found="this is a folder",
        args=("train", "rows"),
    ),
    Case(
        "a name too long for a file",
        sound,
        place="xxx.yaml",
        expected="expected a curriculum",
        found="cannot be read: File name too long",
        args=("train", "x" * 300 + ".yaml"),
    ),
    Case(
        "a path below a file",
        sound,
        place="kernel.txt/pico.yaml",
        expected="expected a curriculum",
        found="cannot be read: Not a directory",
        args=("train", "kernel.txt/pico.yaml"),
    ),
    Case(
        "a link to itself for a curriculum",
        in_place_of("pico.yaml", lambda p: (p.root / "pico.yaml").symlink_to("pico.yaml")),
        place="pico.yaml",
        expected="expected a curriculum",
        found="cannot be read: Too many levels of symbolic links",
    ),
    Case(
        "a pipe for a curriculum",
        in_place_of("pico.yaml", lambda p: os.mkfifo(p.root / "pico.yaml")),
        place="pico.yaml",
        expected="expected a curriculum in a file",
        found="this is a pipe or a device",
    ),
    Case(
        "a device for a curriculum",
        sound,
        place="/dev/zero",
        expected="expected a curriculum in a file",
        found="this is a pipe or a device",
        args=("plan", "/dev/zero"),
    ),
    Case(
        "a curriculum of a megabyte",
        whole("# much\n" * 150_000),
        place="pico.yaml",
        expected="expected a curriculum of at most 65,536 bytes",
        found="got 1,050,000",
    ),
]

VALUES = [
    Case(
        "a word for a number",
        edit("rank: 4", "rank: four"),
        place="defaults.lora.rank: ",
        expected="expected an integer ≥ 1",
        found='got "four" (pico.yaml:5)',
    ),
    Case(
        "a number in quotes",
        edit("iterations: 2}", 'iterations: "2"}'),
        place="phases[0].iterations: ",
        expected="expected an integer ≥ 1",
        found='got "2" (pico.yaml:9)',
    ),
    Case(
        "a number for a name",
        edit("name: pico", "name: 2026"),
        place="(pico.yaml:1)",
        expected="name: expected a name of a-z",
        found="got 2026; put it in quotes",
    ),
    Case(
        "true for a number",
        edit("iterations: 2}", "iterations: true}"),
        place="(pico.yaml:9)",
        expected="phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000",
        found="got true",
    ),
    Case(
        "a word for true",
        edit("defaults:\n", "defaults:\n  gradient_checkpointing: yes\n"),
        place="(pico.yaml:5)",
        expected="defaults.gradient_checkpointing: expected true or false",
        found='got "yes"',
    ),
    Case(
        "null for a number",
        edit("rank: 4", "rank: null"),
        place="(pico.yaml:5)",
        expected="defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096",
        found="got null",
    ),
    Case(
        "nothing for a mapping",
        edit("{tiny: gemma3}", ""),
        place="(pico.yaml:2)",
        expected="base: expected a mapping",
        found="got null",
    ),
    Case(
        "a list for a mapping",
        edit("{tiny: gemma3}", "[gemma3]"),
        place="(pico.yaml:2)",
        expected="base: expected a mapping",
        found='got ["gemma3"]',
    ),
    Case(
        "a mapping for a list",
        train_files("{a: rows/train.jsonl}"),
        place="(pico.yaml:9)",
        expected="phases[0].data.train: expected a list with at least 1 entry",
        found='got {"a": "rows/train.jsonl"}',
    ),
    Case(
        "a float for an integer",
        edit("rank: 4", "rank: 4.0"),
        place="(pico.yaml:5)",
        expected="expected an integer ≥ 1",
        found="got 4.0",
    ),
    Case(
        "zero rows in a batch",
        edit("size: 2", "size: 0"),
        place="(pico.yaml:7)",
        expected="defaults.batch.size: expected an integer ≥ 1",
        found="got 0",
    ),
    Case(
        "a negative seed",
        below("seed: -1"),
        place="(pico.yaml:2)",
        expected="seed: expected an integer ≥ 0",
        found="got -1",
    ),
    Case(
        "a dropout of one",
        edit("rank: 4", "rank: 4, dropout: 1"),
        place="(pico.yaml:5)",
        expected="defaults.lora.dropout: expected a number ≥ 0 and < 1",
        found="got 1 ",
    ),
    Case(
        "an infinite scale",
        edit("scale: 20.0", "scale: .inf"),
        place="(pico.yaml:5)",
        expected="defaults.lora.scale: expected a number > 0",
        found='got ".inf"',
    ),
    Case(
        "a learning rate that is no number",
        edit("5e-3", ".nan"),
        place="(pico.yaml:6)",
        expected="defaults.optimizer.learning_rate: expected a number > 0",
        found='got ".nan"',
    ),
    Case(
        "a number that overflows",
        edit("scale: 20.0", "scale: 1e999"),
        place="(pico.yaml:5)",
        expected="defaults.lora.scale: expected a number > 0",
        found='got "1e999"',
    ),
    Case(
        "an integer of 400 digits",
        below(f"seed: {'9' * 400}"),
        place="(pico.yaml:2)",
        expected="seed: expected an integer ≥ 0",
        found='got "9999999999',
    ),
    Case(
        "an integer of 400 digits for a float",
        edit("scale: 20.0", f"scale: {'9' * 400}"),
        place="(pico.yaml:5)",
        expected="defaults.lora.scale: expected a number > 0",
        found='got "9999999999',
    ),
    Case(
        "a rank that no model has",
        edit("rank: 4", f"rank: {'9' * 200}"),
        place="(pico.yaml:5)",
        expected="defaults.lora.rank: expected an integer ≥ 1 and ≤ ",
        found="got 9999999999",
    ),
    Case(
        "iterations that never end",
        edit("iterations: 2}", "iterations: 4294967297}"),
        place="(pico.yaml:9)",
        expected="phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000",
        found="got 4294967297",
    ),
    Case(
        "a key that is unknown",
        below("phase: x"),
        place="(pico.yaml:2)",
        expected="did you mean phases?",
        found="phase: unknown key",
    ),
    Case(
        "a key that is like no other",
        below("zzz: x"),
        place="(pico.yaml:2)",
        expected="expected one of name, base, kernel, seed, fuse, scoring, defaults, phases",
        found="zzz: unknown key",
    ),
    Case(
        "a key with a slip in a phase",
        edit("iterations: 2}", "iteratoins: 2}"),
        place="(pico.yaml:9)",
        expected="did you mean iterations?",
        found="phases[0].iteratoins: unknown key",
    ),
    Case(
        "alpha for scale",
        edit("scale: 20.0", "alpha: 80"),
        place="(pico.yaml:5)",
        expected="write scale, which is alpha / rank",
        found="defaults.lora.alpha: unknown key",
    ),
    Case(
        "an optimizer that is unknown",
        edit("{learning_rate", "{name: lion, learning_rate"),
        place="(pico.yaml:6)",
        expected='expected one of "adam", "adamw", "sgd", "adafactor", "muon"',
        found='got "lion"',
    ),
    Case(
        "weight decay with adam",
        edit("{learning_rate", "{weight_decay: 0.1, learning_rate"),
        place="(pico.yaml:6)",
        expected="expected no weight_decay with adam",
        found="got 0.1",
    ),
    Case(
        "a final learning rate above the first",
        edit("{learning_rate", "{final_learning_rate: 0.1, learning_rate"),
        place="(pico.yaml:6)",
        expected="expected final_learning_rate to be at most learning_rate (0.005)",
        found="got 0.1",
    ),
]


def without(key: str, line: str, place: str, expected: str) -> Case:
    """A key that is needed, left out; `place` is where the mapping stands."""
    return Case(f"no {key}", edit(line, ""), place, f"expected {expected}", f"{key}: missing")


MISSING = [
    without("name", "name: pico\n", "(pico.yaml:1)", "a name of a-z, 0-9, dots, - and _"),
    without("base", "base: {tiny: gemma3}\n", "(pico.yaml:1)", "a mapping with"),
    Case(
        "no phases",
        whole("name: pico\nbase: {tiny: gemma3}\n"),
        place="(pico.yaml:1)",
        expected="expected a list with at least 1 entry",
        found="phases: missing",
    ),
    without("phases[0].name", "name: first, ", "(pico.yaml:9)", NAME),
    without("phases[0].wrap", "wrap: sandwich, ", "(pico.yaml:9)", 'one of "sandwich"'),
    without("phases[0].data", "data: rows, ", "(pico.yaml:9)", "a non-empty string or a mapping"),
    without("phases[0].iterations", ", iterations: 2", "(pico.yaml:9)", "an integer ≥ 1"),
    without("kernel.text", "text: kernel.txt, ", "(pico.yaml:3)", "a non-empty string"),
    without("kernel.signature", ", signature: signature.txt", "(pico.yaml:3)", "a non-empty"),
    Case(
        "no validation rows",
        edit("data: rows", "data: {train: [rows/train.jsonl]}"),
        place="(pico.yaml:9)",
        expected="expected a list with at least 1 entry",
        found="phases[0].data.valid: missing",
    ),
    Case(
        "no phase in the list",
        whole("name: pico\nbase: {tiny: gemma3}\nphases: []\n"),
        place="(pico.yaml:3)",
        expected="phases: expected a list with at least 1 entry",
        found="got []",
    ),
    Case(
        "no file in a list",
        train_files("[]"),
        place="(pico.yaml:9)",
        expected="phases[0].data.train: expected a list with at least 1 entry",
        found="got []",
    ),
    Case(
        "an empty path",
        edit("data: rows", 'data: ""'),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a non-empty string",
        found='got ""',
    ),
    Case(
        "an empty path of a kernel",
        edit("text: kernel.txt", 'text: ""'),
        place="(pico.yaml:3)",
        expected="kernel.text: expected a path",
        found="got nothing",
    ),
]

MEANING = [
    Case(
        "two phases of one name",
        edit("name: second", "name: first"),
        place="(pico.yaml:1)",
        expected="expected unique phase names",
        found="got twice: first",
    ),
    Case(
        "a phase's name with a slash",
        edit("name: first", "name: a/b"),
        place="(pico.yaml:9)",
        expected=f"phases[0].name: expected {NAME}",
        found='got "a/b"',
    ),
    Case(
        "a phase's name that climbs",
        edit("name: first", "name: .."),
        place="(pico.yaml:9)",
        expected=f"phases[0].name: expected {NAME}",
        found='got ".."',
    ),
    Case(
        "a phase's name in capitals",
        edit("name: first", "name: First"),
        place="(pico.yaml:9)",
        expected=f"phases[0].name: expected {NAME}",
        found='got "First"',
    ),
    Case(
        "a phase's name of 41 characters",
        edit("name: first", f"name: {'a' * 41}"),
        place="(pico.yaml:9)",
        expected="at most 40 characters",
        found=f'got "{"a" * 41}"',
    ),
    Case(
        "a phase's name that ends a line",
        edit("name: first", 'name: "first\\n"'),
        place="(pico.yaml:9)",
        expected=f"phases[0].name: expected {NAME}",
        found='got "first\\n"',
    ),
    Case(
        "a curriculum's name that climbs",
        edit("name: pico", "name: ../pico"),
        place="(pico.yaml:1)",
        expected="name: expected a name of a-z, 0-9, dots, - and _",
        found='got "../pico"',
    ),
    Case(
        "a kernel that is not there while a phase wraps",
        edit("kernel: {text: kernel.txt, signature: signature.txt}\n", ""),
        place="(pico.yaml:1)",
        expected="expected kernel files",
        found="these wrap rows: first",
    ),
    Case(
        "a wrap that is unknown",
        edit("wrap: sandwich", "wrap: burger"),
        place="(pico.yaml:9)",
        expected='phases[0].wrap: expected one of "sandwich", "prefix", "system", "none"',
        found='got "burger"',
    ),
    Case(
        "a base's repo without revision",
        edit("{tiny: gemma3}", "{repo: google/gemma-3-1b-it}"),
        place="(pico.yaml:2)",
        expected="base: expected repo and revision together",
        found="got repo alone",
    ),
    Case(
        "a base's revision without repo",
        edit("{tiny: gemma3}", "{tiny: gemma3, revision: main}"),
        place="(pico.yaml:2)",
        expected="base: expected repo and revision together",
        found="got revision alone",
    ),
    Case(
        "a repo that is a URL",
        edit("{tiny: gemma3}", '{repo: "https://hub/google/gemma", revision: main}'),
        place="(pico.yaml:2)",
        expected="base.repo: expected owner/name, e.g. google/gemma-3-1b-it",
        found='got "https://hub/google/gemma"',
    ),
    Case(
        "two bases",
        edit("{tiny: gemma3}", "{tiny: gemma3, path: rows}"),
        place="(pico.yaml:2)",
        expected="base: expected exactly one of repo, path and tiny",
        found="got path and tiny",
    ),
    Case(
        "no base in base",
        edit("{tiny: gemma3}", "{}"),
        place="(pico.yaml:2)",
        expected="base: expected exactly one of repo, path and tiny",
        found="got none",
    ),
    Case(
        "a seed for a base that is no tiny one",
        edit("{tiny: gemma3}", "{path: rows, seed: 3}"),
        place="(pico.yaml:2)",
        expected="base: expected seed only beside tiny",
        found="got 3",
    ),
    Case(
        "a trimmed prompt with a kernel in it",
        edit("iterations: 2}", "iterations: 2, overlong: trim_prompt}"),
        place="(pico.yaml:9)",
        expected="expected overlong stop or drop with wrap sandwich",
        found="got trim_prompt",
    ),
    Case(
        "a file that is in both splits",
        edit("data: rows", "data: {train: [rows/train.jsonl], valid: [rows/train.jsonl]}"),
        place="rows/train.jsonl: ",
        expected="expected every file once",
        found="it is named twice",
    ),
    Case(
        "a file twice in a split, written in two ways",
        train_files("[rows/train.jsonl, ./rows/../rows/train.jsonl]"),
        place="rows/train.jsonl: ",
        expected="expected every file once",
        found="it is named twice",
    ),
]

PATHS = [
    Case(
        "a data folder that is not there",
        edit("data: rows", "data: lesson"),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a folder",
        found="found nothing at ",
    ),
    Case(
        "a data folder of which a file is not there",
        no_train_file,
        place="(pico.yaml:9)",
        expected="expected a folder with train.jsonl and valid.jsonl",
        found="found no train.jsonl in rows",
    ),
    Case(
        "a data folder that is a loop of links",
        link_loop,
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a folder",
        found="found a loop of links at a",
    ),
    Case(
        "a file for a data folder",
        edit("data: rows", "data: rows/train.jsonl"),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a folder",
        found="found a file at rows/train.jsonl",
    ),
    Case(
        "a folder for a data file",
        train_files("[rows]"),
        place="(pico.yaml:9)",
        expected="phases[0].data.train[0]: expected a file",
        found="found a folder at rows",
    ),
    Case(
        "a pipe for a data file",
        in_place_of("rows/train.jsonl", lambda p: os.mkfifo(p.root / "rows/train.jsonl")),
        place="(pico.yaml:9)",
        expected="expected a folder with train.jsonl and valid.jsonl",
        found="found no train.jsonl in rows",
    ),
    Case(
        "a device for a data file",
        train_files("[/dev/zero]"),
        place="(pico.yaml:9)",
        expected="phases[0].data.train[0]: expected a file",
        found="found a pipe or a device at /dev/zero",
    ),
    Case(
        "a kernel's text that is not there",
        edit("text: kernel.txt", "text: kernels.txt"),
        place="(pico.yaml:3)",
        expected="kernel.text: expected a file",
        found="found nothing at kernels.txt",
    ),
    Case(
        "a folder for a kernel's signature",
        edit("signature: signature.txt", "signature: rows"),
        place="(pico.yaml:3)",
        expected="kernel.signature: expected a file",
        found="found a folder at rows",
    ),
    Case(
        "a base's folder that is not there",
        edit("{tiny: gemma3}", "{path: models/gemma}"),
        place="(pico.yaml:2)",
        expected="base.path: expected a folder",
        found="found nothing at models/gemma",
    ),
    Case(
        "a file for a base's folder",
        edit("{tiny: gemma3}", "{path: kernel.txt}"),
        place="(pico.yaml:2)",
        expected="base.path: expected a folder",
        found="found a file at kernel.txt",
    ),
    Case(
        "a path with a NUL in it",
        edit("data: rows", 'data: "ro\\0ws"'),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a folder",
        found='found nothing at "ro\\u0000ws"',
    ),
    Case(
        "a path with a line's end in it",
        edit("data: rows", 'data: "rows\\n"'),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a folder",
        found='found nothing at "rows\\n"',
    ),
    Case(
        "the home of nobody",
        edit("data: rows", "data: ~no-such-user/rows"),
        place="(pico.yaml:9)",
        expected="expected a path whose ~ is a known home folder",
        found='got "~no-such-user/rows/train.jsonl"',
    ),
    Case(
        "a data folder outside the project",
        edit("data: rows", "data: ../rows"),
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a path inside the project",
        found="found ../rows, where rows leads to ",
    ),
    Case(
        "a kernel outside the project",
        edit("text: kernel.txt", "text: ../../../../../../../../../etc/hostname"),
        place="(pico.yaml:3)",
        expected="write the absolute path if that is meant",
        found="where hostname leads to /",
    ),
    Case(
        "a base outside the project",
        edit("{tiny: gemma3}", "{path: ..}"),
        place="(pico.yaml:2)",
        expected="base.path: expected a path inside the project",
        found="found ..",
    ),
    Case(
        "a data folder that is a link to the outside",
        folder_link_out,
        place="(pico.yaml:9)",
        expected="phases[0].data: expected a path inside the project",
        found="found rows, where rows leads to ",
    ),
    Case(
        "a link to the outside in a data folder",
        link_out,
        place="(pico.yaml:10)",
        expected="phases[1].data: expected a path inside the project",
        found="found rows, where valid.jsonl leads to ",
    ),
]

KEY_VALUE = "expected KEY=VALUE, e.g. defaults.lora.rank=8"
COMMAND_LINE = [
    with_set("seed", place="(--set seed)", expected=KEY_VALUE, found="seed"),
    with_set("=1", place="(--set =1)", expected=KEY_VALUE, found="=1"),
    with_set("a..b=1", place="(--set a..b=1)", expected=KEY_VALUE, found="a..b"),
    with_set(
        "defaults.lora.rnak=8",
        place="(--set defaults.lora.rnak=8)",
        expected="did you mean rank?",
        found="defaults.lora.rnak: unknown key",
    ),
    with_set(
        "phases.third.iterations=8",
        place="(--set phases.third.iterations=8)",
        expected="known phases: 0 first, 1 second",
        found='no phase "third"',
    ),
    with_set(
        "phases.2.iterations=8",
        place="(--set phases.2.iterations=8)",
        expected="known phases: 0 first, 1 second",
        found='no phase "2"',
    ),
    with_set(
        "phases.first.iterations=many",
        place="(--set phases.first.iterations=many)",
        expected="phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000",
        found='got "many"',
    ),
    with_set(
        "seed=[",
        place="(--set seed=[)",
        expected=f"{CHECK}",
        found="seed: not YAML",
    ),
    with_set(
        "seed=",
        place="(--set seed=)",
        expected="seed: expected an integer ≥ 0",
        found="got null",
    ),
    with_set(
        "name.x=1",
        place="(--set name.x=1)",
        expected="name: expected a mapping",
        found='got "pico"',
    ),
    with_set(
        "phases.first.data=../rows",
        place="(--set phases.first.data=../rows)",
        expected="phases[0].data: expected a path inside the project",
        found="found ../rows, where rows leads to ",
    ),
    with_set(
        "kernel.text=none.txt",
        place="(--set kernel.text=none.txt)",
        expected="kernel.text: expected a file",
        found="found nothing at none.txt",
    ),
    with_set(
        "phases.first.data=*rows",
        place="(--set phases.first.data=*rows)",
        expected=WRITE_OUT,
        found="alias *rows",
    ),
    with_set(
        "seed=-1",
        "fuse.keep=most",
        place="(--set fuse.keep=most)",
        expected='expected one of "all", "last", "none"',
        found='got "most"',
    ),
    Case(
        "--until a phase that is unknown",
        sound,
        place="--until",
        expected="expected a phase (first, second)",
        found="got third",
        args=("train", "pico.yaml", "--until", "third"),
    ),
]

CASES = [*FORM, *FILE, *VALUES, *MISSING, *MEANING, *PATHS, *COMMAND_LINE]
