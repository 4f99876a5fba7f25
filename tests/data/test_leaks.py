"""Keys and paths of machines are known by their form, and a key is never told again."""

from __future__ import annotations

import pytest

from lem_train.data.leaks import key_in, leaks

KEYS = [
    ("a private key", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    ("a Hugging Face token", "hf_" + "aB3" * 11),
    ("a key of an AI provider", "sk-ant-" + "api03-" + "x_-9" * 10),
    ("a key of an AI provider", "sk-proj-" + "aB3_" * 12),
    ("a GitHub token", "ghp_" + "a1B2" * 9),
    ("a GitLab token", "glpat-" + "x" * 20),
    ("an AWS key", "AKIA" + "ABCD1234" * 2),
    ("a Google key", "AIza" + "a-_B5" * 7),
    ("a Slack token", "xoxb-" + "123456789012-abc"),
    ("a Stripe key", "sk_live_" + "a1" * 12),
    ("an npm token", "npm_" + "a1B2" * 9),
    ("a signed web token", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2"),
    ("an address with a password", "postgres://jo:hunter2@db.example.org/rows"),
]
SETTING = "api_key = 0f1e2d3c4b5a69788796"


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_key_is_named_by_its_kind_and_line_and_not_told(kind: str, key: str) -> None:
    text = f"Put this into the file:\n{key} , will you?"
    assert key_in(text) == kind
    assert list(leaks(text)) == [(2, kind)]


def test_a_row_may_talk_of_a_setting_and_what_is_published_may_hold_none() -> None:
    assert key_in(SETTING) is None
    assert list(leaks(SETTING)) == [(1, "a key or password")]


@pytest.mark.parametrize(
    "text",
    [
        "The hf_transfer package and hf_hub_download are no keys.",
        "sk-learn is not a key, nor is task-force-of-the-nineteen-seventies-in-the-north.",
        "Write to jo@example.org or see https://example.org:8080/a@b.",
        "AKIA is a prefix; -----BEGIN CERTIFICATE----- is public.",
        "The ghp_ prefix and xoxb- are talked about, and so is my password: hunter2.",
        "training/ethics/train.jsonl, https://example.org/home/jo and /usr/bin are no secrets",
    ],
)
def test_talk_about_keys_is_none(text: str) -> None:
    assert key_in(text) is None
    assert list(leaks(text)) == []


@pytest.mark.parametrize("path", ["/home/jo/rows.jsonl", "/Users/jo/x", "/Volumes/jo/x"])
def test_a_path_of_a_machine_is_no_key_but_a_leak(path: str) -> None:
    text = f"one\ntwo, from {path} of today"
    assert list(leaks(text)) == [(2, f"a path of a machine, {path}")]
    assert key_in(text) is None
