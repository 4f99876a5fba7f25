"""Keys and private paths are known by their form, and are not told again."""

from __future__ import annotations

import pytest

from lem_train.data.secrets import private_path_in, secret_in

KEYS = {
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
    "a Hugging Face token": "hf_" + "aB3" * 11,
    "an Anthropic key": "sk-ant-" + "api03-" + "x_-9" * 10,
    "an OpenAI key": "sk-proj-" + "aB3_" * 12,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "x" * 20,
    "an AWS key": "AKIA" + "ABCD1234" * 2,
    "a Google key": "AIza" + "a-_B5" * 7,
    "a Slack token": "xoxb-" + "123456789012-abc",
    "a Stripe key": "sk_live_" + "a1" * 12,
    "an npm token": "npm_" + "a1B2" * 9,
    "a signed web token": "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2",
    "a password in an address": "postgres://jo:hunter2@db.example.org/rows",
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_named_by_its_kind_and_not_repeated(kind: str) -> None:
    key = KEYS[kind]
    found = secret_in(f'Put "{key}" into the file, will you?')
    assert found == f"{kind} ({key[:8]}…)"


@pytest.mark.parametrize(
    "text",
    [
        "The hf_transfer package and hf_hub_download are no keys.",
        "sk-learn is not a key, nor is task-force-of-the-nineteen-seventies-in-the-north.",
        "Write to jo@example.org or see https://example.org:8080/a@b.",
        "AKIA is a prefix; -----BEGIN CERTIFICATE----- is public; eyJ is base64 of a brace.",
        "The ghp_ prefix, npm_config_registry, xoxb- and pk_live_ are talked about.",
    ],
)
def test_talk_about_keys_is_none(text: str) -> None:
    assert secret_in(text) is None


@pytest.mark.parametrize(
    "path", ["/home/jo/rows.jsonl", "/Users/jo/x", r"C:\Users\jo\x", "/root/x"]
)
def test_a_path_into_somebodys_folder_is_found(path: str) -> None:
    assert private_path_in(f"from {path} of today") == path


@pytest.mark.parametrize(
    "text", ["training/ethics/train.jsonl", "https://example.org/home/jo", "the /usr/bin of it"]
)
def test_other_paths_are_not(text: str) -> None:
    assert private_path_in(text) is None
