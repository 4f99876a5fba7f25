"""The command line as a user meets it: exit codes, messages, and no traceback for any of them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lem_train import __version__
from lem_train.cli import main
from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum
from lem_train.run.store import writing

_YAML = """\
name: pico
base: {tiny: gemma3}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: none, data: rows, iterations: 2}
  - {name: second, wrap: none, data: rows, iterations: 2}
"""


@dataclass(frozen=True)
class Done:
    """What a command left with, and what it printed."""

    code: int
    out: str
    err: str


Lem = Callable[..., Done]
SPLITS = ("train", "valid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a pico curriculum of two phases; train into folders of your own."""
    root = tmp_path_factory.mktemp("cli")
    (root / "pico.yaml").write_text(_YAML)
    (root / "bad.yaml").write_text("phases: [")
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [{"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(text)
    return root


@pytest.fixture
def lem(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lem:
    """Run a command in this process, exactly as the `lem` script does."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["lem", *map(str, args)])
        code: object = 0
        try:
            main.run()
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Done(code, out, err)

    return call


def process(folder: Path, *args: object) -> subprocess.Popen[str]:
    """Start the real thing, which heeds SIGINT though these tests may run in the background."""
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from lem_train.cli.main import run; run()"]
    return subprocess.Popen(
        [*command, *map(str, args)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(started: subprocess.Popen[str]) -> Done:
    out, err = started.communicate(timeout=60)
    return Done(started.returncode, out, err)


# -- in processes of their own -----------------------------------------------------------------

REFUSED = [
    (("train", "nothing.yaml"), 1, "lem: nothing.yaml: no such file; expected a curriculum"),
    (("train", "bad.yaml"), 1, "lem: bad.yaml: 1 error\n  not YAML: "),
    (("train", "pico.yaml", "--nope"), 2, "No such option: --nope"),
    (("train", "pico.yaml", "--jsn"), 2, "No such option: --jsn; did you mean --json?"),
    (("plna", "pico.yaml"), 2, "No such command 'plna'. Did you mean 'plan'?"),
    (("data", "chek"), 2, "No such command 'chek'. Did you mean 'check'?"),
    (("fuse", "runs/pico"), 2, "Missing option '--out'"),
    (
        ("train", "pico.yaml", "--until", "third"),
        1,
        "lem: --until: expected a phase (first, second), got third",
    ),
    (
        ("train", "pico.yaml", "--until", "secnd"),
        1,
        "expected a phase (first, second), got secnd; did you mean second?",
    ),
    (
        ("train", "pico.yaml", "--accept", "frist", "--reason", "good enough"),
        1,
        "lem: --accept: expected one of first, second, got frist; did you mean first?",
    ),
]


@pytest.mark.parametrize(("args", "code", "message"), REFUSED)
def test_a_mistake_ends_with_its_code_and_one_message_and_no_traceback(
    folder: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    done = finish(process(folder, *args))
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def interrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A training that was told to stop (SIGINT) after its second iteration."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    long = ("--set", "phases.first.iterations=2000", "--json")
    started = process(folder, "train", "pico.yaml", "--run", run, *long)
    assert started.stdout is not None
    for line in started.stdout:
        if json.loads(line).get("iteration") == 2:
            break
    started.send_signal(signal.SIGINT)
    return run, finish(started)


def test_control_c_leaves_with_130_and_no_record(interrupted: tuple[Path, Done]) -> None:
    run, done = interrupted
    assert done.code == 130
    assert "Traceback" not in done.err
    assert (run / "01-first" / "metrics.jsonl").is_file()
    assert not (run / "01-first" / "phase.json").exists()


def test_control_c_says_how_to_go_on(interrupted: tuple[Path, Done]) -> None:
    told = r"lem: interrupted in phase first after update (\d+) of 2000, which is saved; the same "
    assert re.search(told + "command goes on", interrupted[1].err)


def test_an_interrupted_run_goes_on_where_it_was(
    interrupted: tuple[Path, Done], folder: Path, tmp_path: Path
) -> None:
    saved = re.search(r"after update (\d+)", interrupted[1].err)
    assert saved is not None
    run = shutil.copytree(interrupted[0], tmp_path / "run")
    long = ("--set", "phases.first.iterations=2000", "--json")
    started = process(folder, "train", "pico.yaml", "--run", run, *long)
    assert started.stdout is not None
    events = []
    for line in started.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "trained":
            break
    started.send_signal(signal.SIGTERM)
    assert finish(started).code == 143
    (resumed,) = [event for event in events if event["event"] == "resumed"]
    assert resumed["update"] == int(saved[1])
    assert events[-1]["iteration"] == resumed["iteration"] + 1


def test_the_lock_of_an_interrupted_run_is_free(interrupted: tuple[Path, Done]) -> None:
    with writing(interrupted[0]):
        pass


@pytest.fixture(scope="module")
def streamed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A whole training with --json, in a process of its own."""
    run = tmp_path_factory.mktemp("streamed") / "run"
    return run, finish(process(folder, "train", "pico.yaml", "--run", run, "--json"))


def test_the_json_stream_parses_line_by_line(streamed: tuple[Path, Done]) -> None:
    _, done = streamed
    assert done.code == 0, done.err
    assert done.err == ""
    events = [json.loads(line) for line in done.out.splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "run_planned"
    assert names[-1] == "run_finished"
    assert names.count("trained") == 4
    assert names.count("phase_finished") == 2
    assert events[-1]["trained"] == 2


def test_plain_lines_are_what_a_pipe_gets(folder: Path, streamed: tuple[Path, Done]) -> None:
    done = finish(process(folder, "train", "pico.yaml", "--run", streamed[0]))
    assert (done.code, done.err) == (0, "")
    assert done.out == "nothing to do: all 2 phases of pico are up to date\n"


# -- in this process ---------------------------------------------------------------------------


def test_version_says_which(lem: Lem) -> None:
    assert lem("--version") == Done(0, f"lem {__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "train",
            {"--run", "--until", "--set", "--json", "--trust-remote-code", "--accept", "--reason"}
            | {"--track", "--help"},
        ),
        ("plan", {"--run", "--set", "--json", "--trust-remote-code", "--help"}),
        ("status", {"--watch", "--json", "--help"}),
        ("diff", {"--json", "--help"}),
        ("fuse", {"--out", "--phase", "--dtype", "--quantize", "--trust-remote-code", "--help"}),
        ("tiny", {"--arch", "--seed", "--width", "--help"}),
        ("data check", {"--similarity", "--tokenizer", "--help"}),
        ("data stats", {"--tokenizer", "--json", "--help"}),
        ("data split", {"--out", "--valid", "--help"}),
        ("data dedup", {"--out", "--similarity", "--help"}),
    ],
)
def test_the_options_of_a_command_are_these(lem: Lem, command: str, options: set[str]) -> None:
    done = lem(*command.split(), "--help")
    assert done.code == 0
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.out.split("Options")[1])) == options
    assert f"Example: lem {command} " in done.out


@pytest.mark.parametrize(
    "args",
    [(), ("train",), ("plan",), ("fuse",), ("tiny",), ("data",), ("data", "check")],
)
def test_no_arguments_show_the_help(lem: Lem, args: tuple[str, ...]) -> None:
    done = lem(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: lem ")


@pytest.mark.parametrize(
    "args",
    [
        ("nope",),
        ("train", "pico.yaml", "--until"),
        ("fuse", "run", "--out", "model", "--dtype", "int8"),
        ("fuse", "run", "--out", "model", "--quantize", "3"),
        ("tiny", "model", "--arch", "gpt"),
        ("tiny", "model", "--seed", "-1"),
        ("data", "check", "rows", "--similarity", "0.2"),
        ("data", "split", "rows/train.jsonl", "--out", "model", "--valid", "1"),
    ],
)
def test_a_usage_error_ends_with_two(lem: Lem, folder: Path, args: tuple[str, ...]) -> None:
    done = lem(*args)
    assert done.code == 2
    assert done.err
    assert not (folder / "model").exists()


def test_a_bad_setting_is_named_as_it_was_typed(lem: Lem) -> None:
    done = lem("train", "pico.yaml", "--set", "defaults.lora.rank=0")
    assert done.code == 1
    assert "expected an integer ≥ 1 and ≤ 4096, got 0" in done.err
    assert "(--set defaults.lora.rank=0)" in done.err


def test_an_error_leaves_no_run_folder(lem: Lem, folder: Path) -> None:
    lem("train", "pico.yaml", "--until", "third")
    assert not (folder / "runs").exists()


def test_a_gate_ends_with_three(lem: Lem, tmp_path: Path) -> None:
    strict = ("--set", "fuse.dtype=bfloat16", "--set", "fuse.max_kl=1e-12")
    done = lem("train", "pico.yaml", "--run", tmp_path / "run", *strict)
    assert done.code == 3
    assert "lem: phase first: the fuse is under its bar" in done.err
    assert "fuse.dtype: float32 would retain" in done.err


def test_a_locked_run_names_its_writer(lem: Lem, tmp_path: Path) -> None:
    with writing(tmp_path):
        done = lem("train", "pico.yaml", "--run", tmp_path)
    assert done.code == 1
    assert re.search(r"lem: .*, but process \d+ on .* is writing here; wait for it", done.err)


def test_a_run_folder_that_is_a_file_is_no_traceback(lem: Lem) -> None:
    done = lem("plan", "pico.yaml", "--run", "pico.yaml")
    assert (done.code, done.out) == (1, "")
    assert "pico.yaml: expected a folder, found a file" in done.err


def test_the_default_run_folder_is_named_after_the_curriculum(lem: Lem) -> None:
    assert lem("plan", "pico.yaml").out.startswith("pico in runs/pico\n")


def test_a_plan_writes_nothing(lem: Lem, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert lem("plan", "pico.yaml").code == 0
    assert sorted(folder.rglob("*")) == before


def test_a_plan_as_json_parses(lem: Lem, tmp_path: Path) -> None:
    done = lem("plan", "pico.yaml", "--run", tmp_path / "run", "--json")
    assert (done.code, done.err) == (0, "")
    plan = json.loads(done.out)
    assert [phase["name"] for phase in plan["phases"]] == ["first", "second"]
    assert plan["phases"][0]["train"]["rows"] == 4


def test_a_finished_run_is_fused_and_the_target_not_twice(
    lem: Lem, streamed: tuple[Path, Done], tmp_path: Path
) -> None:
    run, out = streamed[0], tmp_path / "model"
    done = lem("fuse", run, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert "pico after second, float32; 1.0000 of the summed delta retained" in done.out
    again = lem("fuse", run, "--out", out)
    assert again.code == 1
    assert "new or empty, found README.md; nothing is overwritten" in again.err


@pytest.fixture(scope="module")
def barely_taught(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose deltas are far smaller than a step of four-bit weights."""
    run = tmp_path_factory.mktemp("barely") / "run"
    settings = ["defaults.optimizer.learning_rate=1e-5"]
    train_curriculum(load_curriculum(folder / "pico.yaml", settings), run, lambda event: None)
    return run


def test_packing_whose_noise_drowns_the_delta_is_warned_of(
    lem: Lem, barely_taught: Path, tmp_path: Path
) -> None:
    done = lem("fuse", barely_taught, "--out", tmp_path / "model", "--quantize", 4)
    assert done.code == 0
    assert "packed to 4 bits" in done.out
    card = (tmp_path / "model" / "README.md").read_text()
    noise = re.search(r"rounding error is (\S+) times the delta", card)
    assert noise is not None
    assert float(noise[1]) < 1 or "prefer --quantize 8, or no packing" in done.err


def test_data_check_says_where_and_leaves_with_one(lem: Lem, tmp_path: Path) -> None:
    good = {"id": "a", "domain": "d", "prompt": "Ask?", "completion": "Answer."}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(good) + "\n")
    done = lem("data", "check", file)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("1 file, 1 row, 1 answer: no problems\n")
    file.write_text(json.dumps(good) + "\n" + json.dumps(good) + "\n{\n")
    done = lem("data", "check", tmp_path)
    assert done.code == 1
    first, second = done.out.splitlines()[:2]
    assert first == f"{file}:2: exact duplicate of {file}:1"
    assert second.startswith(f"{file}:3: expected a JSON object, got broken JSON")
    assert done.out.endswith("2 problems\n")
    missing = lem("data", "check", tmp_path / "none")
    assert missing.code == 1 and "there is no such file or folder" in missing.err


def test_data_stats_counts_tokens_with_a_model_s_tokenizer(lem: Lem, tmp_path: Path) -> None:
    lem("tiny", tmp_path / "model")
    done = lem("data", "stats", "rows", "--tokenizer", tmp_path / "model", "--json")
    assert done.code == 0
    files = json.loads(done.out)["files"]
    assert [file["rows"] for file in files] == [4, 4]
    assert files[0]["answer_words"] == [2, 2, 2, 2]
    assert all(0 < tokens < 40 for tokens in files[0]["row_tokens"])
    plain = lem("data", "stats", "rows").out
    assert "words    5 " in plain and "tokens   about " in plain


def test_data_split_and_dedup_write_what_they_say(lem: Lem, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"Ask {i}?", "completion": "Yes."} for i in range(40)]
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[7]]))
    done = lem("data", "dedup", source, "--out", tmp_path / "clean.jsonl", "--similarity", "1")
    assert done.out == (
        f"{source}:41: like {source}:8 (1.00)\n{tmp_path}/clean.jsonl: written, 1 row left out\n"
    )
    done = lem("data", "split", tmp_path / "clean.jsonl", "--out", tmp_path / "split")
    assert done.code == 0
    counts = [len((tmp_path / "split" / f"{n}.jsonl").read_text().splitlines()) for n in SPLITS]
    assert sum(counts) == 40 and f"{counts[0]} rows for training" in done.out
    again = lem("data", "split", tmp_path / "clean.jsonl", "--out", tmp_path / "split")
    assert again.code == 1 and "nothing is overwritten" in again.err


@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "mistral"])
def test_a_tiny_model_of_every_architecture_is_written_once(
    lem: Lem, tmp_path: Path, arch: str
) -> None:
    done = lem("tiny", tmp_path / "model", "--arch", arch)
    assert (done.code, done.err) == (0, "")
    assert f"a tiny random {arch}" in done.out
    assert (tmp_path / "model" / "chat_template.jinja").is_file()
    again = lem("tiny", tmp_path / "model", "--arch", arch)
    assert again.code == 1
    assert "expected an empty folder, found " in again.err


@pytest.mark.parametrize("arch", ["llama", "qwen3", "mistral"])
def test_every_architecture_trains_and_fuses(lem: Lem, tmp_path: Path, arch: str) -> None:
    settings = ("--set", f"base.tiny={arch}", "--set", "phases.first.iterations=1")
    run = tmp_path / "run"
    done = lem("train", "pico.yaml", "--run", run, "--until", "first", *settings)
    assert (done.code, done.err) == (0, "")
    assert lem("fuse", run, "--out", tmp_path / "model", "--phase", "first").code == 0
