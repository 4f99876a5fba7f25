"""Run folders that cannot be used: of another version, edited, damaged, half deleted, not ours."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from catalogue import Case, Project, signed

from lem_train.run.store import read_run, write_run

Change = Callable[[Project], object]
Edit = Callable[[dict[str, Any]], object]

RUN = "runs/pico"
TRAIN = ("train", "pico.yaml")
MORE = (*TRAIN, "--set", "phases.second.iterations=3")
PLAN = ("plan", "pico.yaml")
FUSE = ("fuse", RUN, "--out", "model")
VERIFY = ("verify", RUN)

RUN_JSON = f"{RUN}/run.json"
FIRST, SECOND = f"{RUN}/01-first", f"{RUN}/02-second"
PHASE_JSON = f"{FIRST}/phase.json"
TRAINED_JSON = f"{SECOND}/trained.json"
CHECKPOINT = f"{SECOND}/checkpoints/update-000001"
BASE = f"{RUN}/base-gemma3-0"


def _all(*changes: Change) -> Change:
    def change(project: Project) -> None:
        for each in changes:
            each(project)

    return change


# -- a run, and what is done to a file of it -----------------------------------------------------


def _finished(project: Project) -> None:
    project.with_run()


def _own_files(project: Project) -> None:
    """A finished run whose record names this project's kernel and rows."""
    run = project.with_run()
    record = read_run(run)
    assert record is not None
    text = json.dumps(record.curriculum)
    ours = text.replace(str(project.finished.parent.parent), str(project.root))
    write_run(run, record.model_copy(update={"curriculum": json.loads(ours)}))


def _trained(project: Project) -> None:
    """The second phase is trained and not fused yet."""
    folder = project.with_run() / "02-second"
    fields = json.loads((folder / "phase.json").read_text())
    (folder / "phase.json").unlink()
    shutil.rmtree(folder / "fused")
    kept = (
        "record_version", "fingerprint", "way", "shared_prefix", "losses", "skipped_updates",
        "adapter", "metrics", "seconds", "peak_memory",
    )  # fmt: skip
    (folder / "trained.json").write_bytes(signed({key: fields[key] for key in kept}))


def _saved(project: Project) -> None:
    """The second phase has a checkpoint and is not finished."""
    _trained(project)
    second, folder = project.root / SECOND, project.root / CHECKPOINT
    fields = json.loads((second / "trained.json").read_text())
    (second / "trained.json").unlink()
    shutil.copytree(second / "adapter", folder)
    shutil.rmtree(second / "adapter")
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    record = {
        "record_version": 3,
        "fingerprint": fields["fingerprint"],
        "update": 1,
        "iteration": 1,
        "val_loss": None,
        "seconds": 1.0,
        "files": hashes,
    }
    (folder / "checkpoint.json").write_bytes(signed(record))


def _written(file: str, content: str | bytes, start: Change = _finished) -> Change:
    def change(project: Project) -> None:
        start(project)
        project.write(file, content)

    return change


def _bytes(file: str, edit: Callable[[bytes], bytes], start: Change = _finished) -> Change:
    def change(project: Project) -> None:
        start(project)
        before = (project.root / file).read_bytes()
        after = edit(before)
        assert after != before
        project.write(file, after)

    return change


def _fields(file: str, edit: Edit, start: Change = _finished, sign: bool = True) -> Change:
    """A record with other fields; signed as if a lem had written it, or just edited."""

    def change(project: Project) -> None:
        start(project)
        path = project.root / file
        fields = json.loads(path.read_text())
        edit(fields)
        path.write_bytes(signed(fields) if sign else json.dumps(fields, indent=2).encode())

    return change


def _edited(file: str, edit: Edit) -> Change:
    return _fields(file, edit, sign=False)


def _versioned(file: str, version: Any, start: Change = _finished) -> Change:
    return _fields(file, lambda fields: fields.update(record_version=version), start)


def _unversioned(file: str, start: Change = _finished) -> Change:
    return _fields(file, lambda fields: fields.pop("record_version"), start)


def _without(*files: str, start: Change = _finished) -> Change:
    def change(project: Project) -> None:
        start(project)
        for file in files:
            path = project.root / file
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _as_folder(file: str, start: Change = _finished) -> Change:
    return _all(_without(file, start=start), lambda project: (project.root / file).mkdir())


def _as_file(folder: str, start: Change = _finished) -> Change:
    return _written(folder, "a file", start=_without(folder, start=start))


def _link(file: str, to: str, start: Change = _finished) -> Change:
    def change(project: Project) -> None:
        start(project)
        path = project.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(to)

    return change


def _pipe(project: Project) -> None:
    """Whoever reads it waits for ever."""
    _without(RUN_JSON)(project)
    os.mkfifo(project.root / RUN_JSON)


def _swapped_records(project: Project) -> None:
    project.with_run()
    first, second = project.root / PHASE_JSON, project.root / SECOND / "phase.json"
    ours, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs), second.write_bytes(ours)


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _answered(data: bytes) -> bytes:
    return data.replace(b"Answer 0", b"Answer 9")


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _line_ends(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def _to_utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


def _of_another_base(fields: dict[str, Any]) -> None:
    """A record of a run that had the same phases on another tiny base."""
    fields["base"]["seed"] = 1
    fields["curriculum"]["base"]["seed"] = 1


def _of_another_seed(fields: dict[str, Any]) -> None:
    fields["seed"] = fields["curriculum"]["seed"] = 7


def _of_other_phases(fields: dict[str, Any]) -> None:
    for phase, name in zip(fields["curriculum"]["phases"], ("alpha", "beta"), strict=True):
        phase["name"] = name


# -- folders that are no run ---------------------------------------------------------------------


def _folder(file: str, content: str = "mine") -> Change:
    def change(project: Project) -> None:
        (project.root / file).parent.mkdir(parents=True)
        project.write(file, content)

    return change


def _runs_is_a_file(project: Project) -> None:
    project.write("runs", "mine")


def _locked(start: Change = _finished) -> Change:
    """Somebody is at work in the run: this very process, to its end. The folder is one test's."""

    def change(project: Project) -> None:
        start(project)
        handle = os.open(project.root / RUN / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.write(handle, b"process 4711 on elsewhere")

    return change


def _target(make: Change) -> Change:
    return _all(_finished, make)


def _in_runs(path: str) -> tuple[str, ...]:
    return ("fuse", RUN, "--out", path)


# -- the cases -----------------------------------------------------------------------------------

_NEWER = "it was written by a newer lem: update this one"
_VERSION = "expected record_version 3"
_RECORD = "expected a record of lem"
_SOUND = "expected the record as it was written"
_OTHER = "edited or damaged since: its sha256 differs"
_FORM = "expected a record of this version of lem"
_BYTES = "expected the record as it was written, byte for byte"
_A_RUN = "expected a run folder with run.json"
_OUT = "expected a folder that is new or empty"
_LOCK = "expected a run folder that nobody else writes"


def _at(file: str) -> str:
    return f"{file}: "


def _odd(name: str, file: str, change: Change, expected: str, found: str, args: Any) -> Case:
    return Case(name, change, _at(file), expected, found, args)


def _differing(
    name: str, file: str, edit: Callable[[bytes], bytes], start: Change = _finished
) -> Case:
    """A file whose bytes are not those that were recorded: `lem verify` finds it."""
    change = _bytes(file, edit, start)
    return Case(name, change, _at(file), "expected sha256", "…, got ", VERIFY)


def _gone(name: str, file: str, start: Change = _finished) -> Case:
    change = _without(file, start=start)
    return Case(name, change, _at(file), "expected a file with sha256", "found none", VERIFY)


VERSIONS = [
    _odd("a run of a newer lem", RUN_JSON, _versioned(RUN_JSON, 4), _NEWER, "got 4", TRAIN),
    _odd("a run of an older lem", RUN_JSON, _versioned(RUN_JSON, 1), _VERSION, "got 1", FUSE),
    _odd("a run of no version", RUN_JSON, _unversioned(RUN_JSON), _VERSION, "got null", VERIFY),
    _odd("a run of a named version", RUN_JSON, _versioned(RUN_JSON, "3"), _VERSION, '"3"', PLAN),
    _odd("a phase of a newer lem", PHASE_JSON, _versioned(PHASE_JSON, 4), _NEWER, "got 4", FUSE),
    _odd("a phase of an older lem", PHASE_JSON, _versioned(PHASE_JSON, 1), _VERSION, "got 1", MORE),
    _odd("a phase of no version", PHASE_JSON, _unversioned(PHASE_JSON), _VERSION, "null", PLAN),
    _odd(
        "a training of a newer lem",
        TRAINED_JSON,
        _versioned(TRAINED_JSON, 4, _trained),
        _NEWER,
        "got 4",
        TRAIN,
    ),
    _odd(
        "a training of an older lem",
        TRAINED_JSON,
        _versioned(TRAINED_JSON, 1, _trained),
        _VERSION,
        "got 1",
        PLAN,
    ),
    _odd(
        "a training of no version",
        TRAINED_JSON,
        _unversioned(TRAINED_JSON, _trained),
        _VERSION,
        "got null",
        VERIFY,
    ),
    _odd(
        "a checkpoint of a newer lem",
        f"{CHECKPOINT}/checkpoint.json",
        _versioned(f"{CHECKPOINT}/checkpoint.json", 4, _saved),
        _NEWER,
        "got 4",
        VERIFY,
    ),
]

EDITED = [
    _odd(
        "a number of a phase's record edited",
        PHASE_JSON,
        _edited(PHASE_JSON, lambda fields: fields["losses"].update(val_end=0.01)),
        _SOUND,
        _OTHER,
        TRAIN,
    ),
    _odd(
        "a key of a run's record added",
        RUN_JSON,
        _edited(RUN_JSON, lambda fields: fields.update(notes="mine")),
        _SOUND,
        _OTHER,
        PLAN,
    ),
    _odd(
        "a key of a phase's record removed",
        PHASE_JSON,
        _edited(PHASE_JSON, lambda fields: fields.pop("seconds")),
        _SOUND,
        _OTHER,
        FUSE,
    ),
    _odd(
        "a key of a run's record renamed",
        RUN_JSON,
        _edited(RUN_JSON, lambda fields: fields.update(Seed=fields.pop("seed"))),
        _SOUND,
        _OTHER,
        MORE,
    ),
    _odd(
        "a number of a phase's record made text",
        PHASE_JSON,
        _edited(PHASE_JSON, lambda fields: fields.update(index="0")),
        _SOUND,
        _OTHER,
        VERIFY,
    ),
    _odd(
        "a record's own sha256 removed",
        RUN_JSON,
        _edited(RUN_JSON, lambda fields: fields.pop("sha256")),
        _SOUND,
        _OTHER,
        VERIFY,
    ),
    _odd(
        "a number of a training's record edited",
        TRAINED_JSON,
        _bytes(TRAINED_JSON, lambda data: data.replace(b'"way": "', b'"way": "un'), _trained),
        _SOUND,
        _OTHER,
        TRAIN,
    ),
    _odd(
        "spaces in a run's record",
        RUN_JSON,
        _bytes(RUN_JSON, lambda data: data.replace(b": ", b":  ", 1)),
        _BYTES,
        "got something else",
        VERIFY,
    ),
    _odd(
        "line ends of a phase's record",
        PHASE_JSON,
        _bytes(PHASE_JSON, _line_ends),
        _BYTES,
        "got something else",
        VERIFY,
    ),
    _odd(
        "a run's record in UTF-16",
        RUN_JSON,
        _bytes(RUN_JSON, _to_utf16),
        _BYTES,
        "got something else",
        VERIFY,
    ),
    _odd(
        "a phase's record with a byte order mark",
        PHASE_JSON,
        _bytes(PHASE_JSON, lambda data: b"\xef\xbb\xbf" + data),
        _BYTES,
        "got something else",
        VERIFY,
    ),
    _odd(
        "a key twice in a phase's record",
        PHASE_JSON,
        _bytes(PHASE_JSON, lambda data: data.replace(b"{", b'{"index": 5,', 1)),
        _BYTES,
        "got something else",
        VERIFY,
    ),
]

SIGNED = [
    _odd(
        "an unknown key of a run's record",
        RUN_JSON,
        _fields(RUN_JSON, lambda fields: fields.update(surprise=1)),
        _FORM,
        "surprise: Extra inputs are not permitted",
        TRAIN,
    ),
    _odd(
        "no base in a run's record",
        RUN_JSON,
        _fields(RUN_JSON, lambda fields: fields.pop("base")),
        _FORM,
        "base: Field required",
        FUSE,
    ),
    _odd(
        "text for a number in a phase's record",
        PHASE_JSON,
        _fields(PHASE_JSON, lambda fields: fields["losses"].update(val_end="low")),
        _FORM,
        "losses.val_end: Input should be a valid number",
        PLAN,
    ),
    _odd(
        "a list of adapters in a training's record",
        TRAINED_JSON,
        _fields(TRAINED_JSON, lambda fields: fields.update(adapter=[]), _trained),
        _FORM,
        "adapter: Input should be an object",
        TRAIN,
    ),
    _odd(
        "a dtype that does not exist",
        RUN_JSON,
        _fields(RUN_JSON, lambda fields: fields.update(dtype="float99")),
        _FORM,
        "dtype: String should match pattern '^(bfloat16|float16|float32)$'",
        FUSE,
    ),
    _odd(
        "a curriculum of another lem, fused",
        RUN_JSON,
        _fields(RUN_JSON, lambda fields: fields["curriculum"].update(gate=1)),
        "expected the curriculum of this version of lem",
        "gate: Extra inputs",
        FUSE,
    ),
    _odd(
        "a curriculum of another lem, verified",
        RUN_JSON,
        _fields(RUN_JSON, lambda fields: fields["curriculum"]["phases"][1].pop("iterations")),
        "expected the curriculum of this version of lem",
        "phases.1.iterations: Field required",
        VERIFY,
    ),
    _odd(
        "a run's record of another base, fused",
        RUN,
        _fields(RUN_JSON, _of_another_base),
        "expected phase second to be finished",
        "finished so far: none",
        FUSE,
    ),
    _odd(
        "a run's record of another seed, fused",
        RUN,
        _fields(RUN_JSON, _of_another_seed),
        "expected phase second to be finished",
        "finished so far: none",
        FUSE,
    ),
    _odd(
        "a run's record of another base, verified",
        PHASE_JSON,
        _fields(RUN_JSON, _of_another_base),
        "expected a phase that starts from what run.json says",
        "got something else",
        VERIFY,
    ),
    _odd(
        "a run's record of other phases",
        RUN,
        _fields(RUN_JSON, _of_other_phases),
        "expected phase beta to be finished",
        "finished so far: none",
        FUSE,
    ),
    _odd(
        "records of two phases swapped, fused",
        RUN,
        _swapped_records,
        "expected phase first to be finished",
        "finished so far: none",
        (*FUSE, "--phase", "first"),
    ),
    _odd(
        "records of two phases swapped, verified",
        PHASE_JSON,
        _swapped_records,
        "expected the record of phase first",
        "got that of phase second",
        VERIFY,
    ),
]

DAMAGED = [
    _odd("a run's record cut", RUN_JSON, _bytes(RUN_JSON, _half), _RECORD, "'{\\n", TRAIN),
    _odd("a phase's record cut", PHASE_JSON, _bytes(PHASE_JSON, _half), _RECORD, "'{\\n", FUSE),
    _odd("an empty run's record", RUN_JSON, _written(RUN_JSON, ""), _RECORD, "an empty file", PLAN),
    _odd(
        "an empty training's record",
        TRAINED_JSON,
        _written(TRAINED_JSON, "", _trained),
        _RECORD,
        "an empty file",
        VERIFY,
    ),
    _odd(
        "a phase's record of zeros",
        PHASE_JSON,
        _written(PHASE_JSON, bytes(4096)),
        _RECORD,
        "'\\x00\\x00",
        MORE,
    ),
    _odd(
        "a run's record that is no text",
        RUN_JSON,
        _written(RUN_JSON, b"\x93\xff\xfe\x80" * 40),
        _RECORD,
        "'\\ufffd",
        FUSE,
    ),
    _odd(
        "a phase's record nested without end",
        PHASE_JSON,
        _written(PHASE_JSON, '{"inputs": ' * 50_000),
        _RECORD,
        '\'{"inputs": ',
        PLAN,
    ),
    _odd("a list", RUN_JSON, _written(RUN_JSON, "[1, 2]\n"), _RECORD, "'[1, 2]\\n'", VERIFY),
    _odd("a text", PHASE_JSON, _written(PHASE_JSON, '"done"'), _RECORD, "'\"done\"'", TRAIN),
    _odd("a null", RUN_JSON, _written(RUN_JSON, "null"), _RECORD, "'null'", TRAIN),
    _odd(
        "an integer of 5,000 digits",
        RUN_JSON,
        _bytes(RUN_JSON, lambda data: data.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000)),
        _RECORD,
        "'{\\n",
        TRAIN,
    ),
    _odd(
        "a version of 400 digits",
        PHASE_JSON,
        _versioned(PHASE_JSON, 10**400),
        _NEWER,
        "got 1000000",
        FUSE,
    ),
    _odd(
        "NaN in a phase's record",
        PHASE_JSON,
        _edited(PHASE_JSON, lambda fields: fields["losses"].update(val_end=float("nan"))),
        _SOUND,
        _OTHER,
        TRAIN,
    ),
    _odd(
        "NaN in a phase's record without sha256",
        PHASE_JSON,
        _edited(PHASE_JSON, lambda fields: fields.update(seconds=float("nan"), sha256="")),
        _SOUND,
        _OTHER,
        VERIFY,
    ),
    _odd(
        "half a character in a run's record",
        RUN_JSON,
        _edited(RUN_JSON, lambda fields: fields.update(name="\ud800", sha256="")),
        _SOUND,
        _OTHER,
        PLAN,
    ),
    _odd("a folder for run.json", RUN_JSON, _as_folder(RUN_JSON), _RECORD, "found a folder", TRAIN),
    _odd(
        "a folder for phase.json",
        PHASE_JSON,
        _as_folder(PHASE_JSON),
        _RECORD,
        "found a folder",
        VERIFY,
    ),
    _odd(
        "a link to itself for phase.json",
        PHASE_JSON,
        _link(PHASE_JSON, "phase.json"),
        _RECORD,
        "Too many levels of symbolic links",
        MORE,
    ),
    _odd("a pipe for run.json", RUN_JSON, _pipe, _RECORD, "found what is no file", TRAIN),
]

HALF = [
    _odd("phases without run.json, fused", RUN, _without(RUN_JSON), _A_RUN, "found none", FUSE),
    _odd(
        "phases without run.json, verified", RUN, _without(RUN_JSON), _A_RUN, "found none", VERIFY
    ),
    _odd(
        "phases without run.json and lock, trained",
        RUN,
        _without(RUN_JSON, f"{RUN}/lock"),
        "expected a run folder, or one that is new or empty",
        "found 01-first",
        MORE,
    ),
    _odd(
        "the last phase without its record, fused",
        RUN,
        _without(f"{SECOND}/phase.json"),
        "expected phase second to be finished",
        "finished so far: first",
        FUSE,
    ),
    _odd(
        "a phase without its record, verified",
        FIRST,
        _without(PHASE_JSON),
        "expected phase.json or trained.json beside adapter",
        "found neither",
        VERIFY,
    ),
    _odd(
        "the first phase's folder gone",
        RUN,
        _without(FIRST),
        "expected phase second to be finished",
        "finished so far: none",
        FUSE,
    ),
    _gone("no adapter, verified", f"{FIRST}/adapter/adapters.safetensors"),
    _gone("no adapter's config, verified", f"{FIRST}/adapter/adapter_config.json"),
    _gone("a training without its adapter", f"{SECOND}/adapter/adapters.safetensors", _trained),
    _gone("no metrics", f"{FIRST}/metrics.jsonl"),
    _gone("half the fused weights", f"{SECOND}/fused/tokenizer.json"),
    _gone("half a checkpoint", f"{CHECKPOINT}/adapters.safetensors", _saved),
    _gone("half a base", f"{BASE}/model.safetensors"),
    _gone("rows that are gone", "rows/valid.jsonl", _own_files),
    _odd(
        "the adapter folder gone, verified",
        f"{SECOND}/adapter/adapters.safetensors",
        _without(f"{SECOND}/adapter"),
        "expected a file with sha256",
        "found none",
        VERIFY,
    ),
    _odd(
        "the base gone, verified",
        f"{BASE}/model.safetensors",
        _without(BASE),
        "expected a file with sha256",
        "found none",
        VERIFY,
    ),
    _odd(
        "a checkpoint without its record",
        f"{CHECKPOINT}/checkpoint.json",
        _without(f"{CHECKPOINT}/checkpoint.json", start=_saved),
        "expected the checkpoint's record",
        "found none",
        VERIFY,
    ),
    _odd(
        "a kernel that is gone",
        "kernel.txt",
        _without("kernel.txt", start=_own_files),
        "the kernel cannot be used:",
        "cannot be read (No such file or directory)",
        VERIFY,
    ),
    _odd(
        "a fused folder that is a file",
        f"{SECOND}/fused/config.json",
        _as_file(f"{SECOND}/fused"),
        "expected a file with sha256",
        "found none",
        VERIFY,
    ),
    _odd(
        "a phase folder that is a file",
        FIRST,
        _as_file(FIRST),
        "expected a folder",
        "found a file",
        MORE,
    ),
    _odd(
        "a phase folder that is a file, planned",
        FIRST,
        _as_file(FIRST),
        "expected a folder",
        "found a file",
        PLAN,
    ),
    _odd(
        "a phase folder that is a file, verified",
        FIRST,
        _as_file(FIRST),
        "expected a folder",
        "found a file",
        VERIFY,
    ),
    _odd(
        "a phase folder that links to itself",
        SECOND,
        _link(SECOND, "02-second"),
        "expected a folder",
        "found a link to itself",
        FUSE,
    ),
]

CHANGED = [
    _differing(
        "an adapter, verified", f"{SECOND}/adapter/adapters.safetensors", _flipped, _finished
    ),
    _differing("metrics", f"{FIRST}/metrics.jsonl", lambda data: data + b"\n"),
    _differing("fused weights", f"{SECOND}/fused/model.safetensors", _flipped),
    _differing("a base", f"{BASE}/model.safetensors", _flipped),
    _differing("a checkpoint", f"{CHECKPOINT}/adapters.safetensors", _flipped, _saved),
    _differing("a row", "rows/train.jsonl", _answered, _own_files),
    _odd(
        "a kernel that changed",
        PHASE_JSON,
        _written("kernel.txt", "Protect nothing.\n", _own_files),
        "expected the kernel that the phase was wrapped in",
        "got something else",
        VERIFY,
    ),
    _odd(
        "a file more among the fused weights",
        f"{SECOND}/fused/model-2.safetensors",
        _written(f"{SECOND}/fused/model-2.safetensors", "weights"),
        "expected no file of this name",
        "got one that no record knows",
        VERIFY,
    ),
    _odd(
        "a file more beside an adapter",
        f"{FIRST}/adapter/.adapters.safetensors.partial",
        _written(f"{FIRST}/adapter/.adapters.safetensors.partial", "half"),
        "expected no file of this name",
        "got one that no record knows",
        VERIFY,
    ),
    _odd(
        "a file more in a tiny base",
        f"{BASE}/model-2.safetensors",
        _written(f"{BASE}/model-2.safetensors", "weights"),
        "expected no file of this name",
        "got one that no record knows",
        VERIFY,
    ),
    _odd(
        "a base that changed, fused",
        BASE,
        _bytes(f"{BASE}/model.safetensors", _flipped),
        "expected the base that the run began with",
        "model.safetensors differ",
        FUSE,
    ),
    _odd(
        "a base that is a file, fused",
        BASE,
        _as_file(BASE),
        "expected the base's folder",
        "cannot be read (Not a directory)",
        FUSE,
    ),
]

NO_RUN = [
    _odd("a file for a run", RUN, _folder(RUN), "expected a folder", "found a file", TRAIN),
    _odd("a file for a run, planned", RUN, _folder(RUN), "expected a folder", "a file", PLAN),
    _odd("a file for a run, fused", RUN, _folder(RUN), "expected a folder", "a file", FUSE),
    _odd("a file for a run, verified", RUN, _folder(RUN), "expected a folder", "a file", VERIFY),
    _odd("a file for runs", "runs", _runs_is_a_file, "expected a folder", "found a file", TRAIN),
    _odd(
        "a run that links to itself",
        RUN,
        _link(RUN, "pico", start=lambda project: None),
        "expected a folder",
        "found a link to itself",
        TRAIN,
    ),
    _odd(
        "a run that links to nowhere",
        RUN,
        _link(RUN, "nowhere", start=lambda project: None),
        "expected a folder",
        "found a link to nothing",
        TRAIN,
    ),
    _odd(
        "a run that links to nowhere, verified",
        RUN,
        _link(RUN, "nowhere", start=lambda project: None),
        "expected a folder",
        "found a link to nothing",
        VERIFY,
    ),
    _odd(
        "somebody's folder for a run",
        RUN,
        _folder(f"{RUN}/thesis.txt"),
        "expected a run folder, or one that is new or empty",
        "found thesis.txt",
        TRAIN,
    ),
    _odd("somebody's folder, fused", RUN, _folder(f"{RUN}/a.txt"), _A_RUN, "found none", FUSE),
    _odd("somebody's folder, verified", RUN, _folder(f"{RUN}/a.txt"), _A_RUN, "found none", VERIFY),
    _odd("no run to fuse", RUN, lambda project: None, _A_RUN, "found no folder", FUSE),
    _odd("no run to verify", RUN, lambda project: None, _A_RUN, "found no folder", VERIFY),
    _odd(
        "a phase's folder for a run",
        FIRST,
        _finished,
        "expected a run folder, or one that is new or empty",
        "found adapter",
        (*TRAIN, "--run", FIRST),
    ),
    _odd("a phase verified", FIRST, _finished, _A_RUN, "found none", ("verify", FIRST)),
    _odd("a run at work", RUN, _locked(), _LOCK, "process 4711 on elsewhere is writing", MORE),
    _odd(
        "a finished run at work",
        RUN,
        _locked(),
        _LOCK,
        "process 4711 on elsewhere is writing",
        TRAIN,
    ),
    _odd(
        "a lock that is a folder",
        f"{RUN}/lock",
        _as_folder(f"{RUN}/lock"),
        "expected to write here",
        "cannot be written (Is a directory)",
        MORE,
    ),
]

TARGETS = [
    _odd(
        "an unknown phase to fuse",
        "--phase",
        _finished,
        "expected one of first, second",
        "got third",
        (*FUSE, "--phase", "third"),
    ),
    _odd(
        "an unknown phase to train until",
        "--until",
        _finished,
        "expected a phase (first, second)",
        "got third",
        (*TRAIN, "--until", "third"),
    ),
    _odd(
        "a target that is not empty",
        "rows",
        _finished,
        _OUT,
        "found train.jsonl",
        _in_runs("rows"),
    ),
    _odd(
        "a target that is a file",
        "kernel.txt",
        _finished,
        _OUT,
        "found a file",
        _in_runs("kernel.txt"),
    ),
    _odd("the working directory", ".", _finished, _OUT, "found kernel.txt", _in_runs(".")),
    _odd("the run as its own target", RUN, _finished, _OUT, "found 01-first", _in_runs(RUN)),
    _odd(
        "a target inside a file",
        "kernel.txt/model",
        _finished,
        _OUT,
        "found a file, ",
        _in_runs("kernel.txt/model"),
    ),
    _odd(
        "a target far inside a file",
        "kernel.txt/a/model",
        _finished,
        _OUT,
        "found a file, ",
        _in_runs("kernel.txt/a/model"),
    ),
    _odd(
        "a target that links to nowhere",
        "model",
        _target(lambda project: (project.root / "model").symlink_to("nowhere")),
        _OUT,
        "found a link to nothing",
        FUSE,
    ),
    _odd(
        "a target that links to itself",
        "model",
        _target(lambda project: (project.root / "model").symlink_to("model")),
        _OUT,
        "found a link to itself",
        FUSE,
    ),
]


def _weighed(name: str, place: str, expected: str, found: str, *args: str) -> Case:
    """A phase asked for in a way that gives no weights, or a prompt that cannot be asked."""
    return Case(name, _finished, place, expected, found, args)


REBASE = ("rebase", RUN, "--out", "model")
BISECT = ("bisect", RUN)

WEIGHED = [
    _weighed("nothing to rebase", "weights", "expected --drop PHASE or", "found neither", *REBASE),
    _weighed(
        "an unknown phase to drop",
        "--drop third",
        "expected one of first, second",
        "got third",
        *REBASE, "--drop", "third",
    ),
    _weighed(
        "a phase to scale by a word",
        "--scale first=half",
        "expected PHASE=NUMBER",
        "first=half",
        *REBASE, "--scale", "first=half",
    ),
    _weighed(
        "a phase to drop and to scale",
        "--scale first=2",
        "expected every phase once",
        "got first twice",
        *REBASE, "--drop", "first", "--scale", "first=2",
    ),
    _weighed(
        "every phase to drop",
        "weights",
        "expected a phase that stays",
        "found all dropped",
        *REBASE, "--drop", "first", "--drop", "second",
    ),
    _weighed(
        "a rebase into a folder that is not empty",
        "rows: ",
        _OUT,
        "found train.jsonl",
        "rebase", RUN, "--drop", "first", "--out", "rows",
    ),
    _weighed("no prompt", "--prompt", "expected --prompt TEXT or", "found neither", *BISECT),
    _weighed(
        "two prompts",
        "--prompt",
        "expected --prompt TEXT or",
        "found both",
        *BISECT, "--prompt", "Who?", "--prompt-file", "kernel.txt",
    ),
    _weighed(
        "an empty prompt", "--prompt: ", "expected a prompt", "found nothing",
        *BISECT, "--prompt", " ",
    ),
    _weighed(
        "a prompt file that is not there",
        "prompt.txt: ",
        "expected a text file",
        "No such file",
        *BISECT, "--prompt-file", "prompt.txt",
    ),
    _weighed(
        "a prompt file of other bytes",
        "model.safetensors: ",
        "expected text in UTF-8",
        "other bytes",
        *BISECT, "--prompt-file", f"{BASE}/model.safetensors",
    ),
    _weighed(
        "a prompt that ends its own turn",
        "the prompt: ",
        "expected plain text",
        "control token",
        *BISECT, "--prompt", "Who?<end_of_turn>",
    ),
    Case(
        "a bisection of no run",
        lambda project: None,
        "runs/pico",
        "expected",
        "found no folder",
        (*BISECT, "--prompt", "Who?"),
    ),
]  # fmt: skip

CASES = [*VERSIONS, *EDITED, *SIGNED, *DAMAGED, *HALF, *CHANGED, *NO_RUN, *TARGETS, *WEIGHED]
