"""Addresses, keys, what crosses the wire, and which machine takes which teacher; without dask."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lem_train.data.kernel import Kernel
from lem_train.distill.advice import advised, check_room
from lem_train.distill.backend import Candidate, Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.network import load_dask, place, software
from lem_train.distill.wire import (
    Answered,
    Standing,
    Terms,
    Unit,
    Work,
    accepted_terms,
    read_answered,
    read_standing,
    read_unit,
)
from lem_train.errors import ConfigError, RunError

TERMS = Terms("a" * 64, DistillConfig(seed=7), Kernel("k", "s", "1", "2"), software())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("127.0.0.1", "tcp://127.0.0.1:8786"),
        ("localhost:0", "tcp://localhost:0"),
        ("tcp://[::1]:99", "tcp://[::1]:99"),
    ],
)
def test_an_address_may_be_short(given: str, shown: str) -> None:
    assert str(place(given, None, "--listen")) == shown


@pytest.mark.parametrize("given", ["", ":1", "a:b", "a:99999", "a/b", "http://a:1", "x@127.0.0.1"])
def test_what_is_no_address_is_told(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--listen: expected HOST or HOST:PORT, got"):
        place(given, None, "--listen")


@pytest.mark.parametrize("given", ["0.0.0.0", "192.168.1.2:1", "mac.local", "[::]:1"])
def test_beyond_this_machine_a_key_is_needed(given: str) -> None:
    with pytest.raises(ConfigError, match="expected --tls FILE for an address beyond this machine"):
        place(given, None, "ADDRESS")


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\n"])
def test_a_key_that_is_none_is_told(tmp_path: Path, content: str | None) -> None:
    key = tmp_path / "lem.pem"
    if content is not None:
        key.write_text(content)
    with pytest.raises(ConfigError, match=r"--tls .*lem\.pem: expected a PEM file"):
        place("127.0.0.1", key, "ADDRESS")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="uv sync --extra workers"):
        load_dask()


def test_what_crosses_the_wire_is_json_and_comes_back() -> None:
    unit = Unit(TERMS.sha256, (Request("a", "ä?"), Request("b", "b")))
    answered = Answered("mac-1", 1.5, [[Candidate("x", True, 3)], [Candidate("", False, 9)]])
    standing = Standing("o.jsonl", "t", 3, 9, {"mac-1": Work(3, 12, 1.5)})
    assert read_unit(json.loads(json.dumps(unit.to_data()))) == unit
    assert read_answered(json.loads(json.dumps(answered.to_data()))) == answered
    assert read_standing(json.loads(json.dumps(standing.to_data()))) == standing
    accepted = accepted_terms(json.loads(json.dumps(TERMS.to_data())), "a" * 64)
    assert (accepted, accepted.sha256) == (TERMS, TERMS.sha256)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"software": {**software(), "mlx": "0.1"}}, r"need mlx 0\.1, found \d"),
        ({"software": {}}, "need lem-train none, found"),
        ({"teacher": "b" * 64}, "has the sha256 bbbbbbbbbbbb, this worker's aaaaaaaaaaaa"),
        ({"config": {"best_of": 3, "mood": "good"}}, "settings are not known here"),
        ({"kernel": {"text": "k"}}, "settings are not known here"),
    ],
)
def test_terms_that_are_not_met_here_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(RunError, match=told):
        accepted_terms({**TERMS.to_data(), **changes}, "a" * 64)


@pytest.mark.parametrize(
    ("memory", "size"),
    [(4.1e9, "1B"), (8.2e9, "4B"), (15.9e9, "12B"), (24 << 30, "12B"), (32 << 30, "27B")],
)
def test_a_teacher_is_advised_by_memory(memory: int, size: str) -> None:
    assert advised(memory) == f"{size} at 4 bits"


def test_a_model_larger_than_its_machine_is_refused() -> None:
    check_room("model", 5 << 30, 5 << 30, 8 << 30)
    with pytest.raises(RunError, match=r"model: its weights have 6\.0 GiB.*take a teacher of 4B"):
        check_room("model", 6 << 30, 5 << 30, 8 << 30)
