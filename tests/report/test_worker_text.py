"""What `lem worker status` and `--dry-run` print."""

from __future__ import annotations

import pytest

pytest.importorskip("distributed", reason="the extra `workers` is not installed")
from lem_train.distill.network import load_dask

load_dask()
from lem_train.distill.pool import Seen, View  # noqa: E402
from lem_train.distill.wire import Standing, Work  # noqa: E402
from lem_train.report.worker import left_lines, status_json, status_lines  # noqa: E402

WORK = {"gone-1": Work(20, 100, 10.0), "mac-1": Work(40, 400, 20.0)}
STANDING = Standing("new.jsonl", "teacher", 160, 400, WORK)
SEEN = (Seen("mac-1", 0.4, 2), Seen("mac-2", 70.0, 1))
VIEW = View(STANDING, "ab" * 32, SEEN)


def test_a_status_has_a_line_for_every_worker_and_the_time_left() -> None:
    assert status_lines(VIEW) == [
        "new.jsonl: answers of teacher (abababababab)",
        "160 of 400 prompts answered, 240 left, about 1 min 00 s",  # by two, 2 a second each
        "  worker  prompts  a minute  tokens/s  last seen",
        "  mac-1        40     120.0        20  < 1 s ago",
        "  mac-2         0         –         –  1 min 10 s ago",
        "  gone-1       20     120.0        10  gone",
    ]


def test_the_time_left_is_told_only_where_a_worker_of_a_known_rate_is_here() -> None:
    assert left_lines(View(STANDING, None, SEEN[1:]))[1] == (
        "160 of 400 prompts answered, 240 left"
    )


def test_before_anything_has_begun_that_is_said() -> None:
    assert status_lines(View(None, None, ())) == [
        "no distillation has begun here",
        "no worker is here: `lem worker ADDRESS --model MODEL`",
    ]


def test_a_status_for_machines_has_nulls_where_nothing_is_known() -> None:
    found = status_json(View(None, None, SEEN[:1]))
    assert found["prompts"] is None and found["seconds_left"] is None
    assert found["workers"] == [
        {
            "name": "mac-1",
            "here": True,
            "last_seen_seconds": 0.4,
            "units": 2,
            "prompts": 0,
            "prompts_a_second": None,
            "tokens_a_second": None,
        }
    ]
    assert status_json(VIEW)["seconds_left"] == pytest.approx(60)
