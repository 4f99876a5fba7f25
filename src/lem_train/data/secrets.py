"""What must not be published by accident: keys and passwords by their form, and private paths."""

from __future__ import annotations

import re

_KINDS = {
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "an Anthropic key": r"\bsk-ant-[\w-]{20,}",
    "an OpenAI key": r"\bsk-(?:(?:proj|svcacct|admin)-[\w-]{20,}|[A-Za-z0-9]{40,})",
    "a GitHub token": r"\b(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
    "a Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "a signed web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]{3,}@[\w.-]+",
}
_ANY = re.compile("|".join(f"({form})" for form in _KINDS.values()))
_NAMES = tuple(_KINDS)
_PATH = re.compile(
    r"(?<![\w/.])(?:/home/|/Users/|/root/|/private/var/|[A-Za-z]:\\Users\\)[^\s\"'`]+"
)
_SHOWN = 8  # characters: enough to find it by, too few to use it


def secret_in(text: str) -> str | None:
    """The first that looks like a key, in words: what kind, and how it begins."""
    found = _ANY.search(text)
    if found is None:
        return None
    return f"{_NAMES[(found.lastindex or 1) - 1]} ({found[0][:_SHOWN]}…)"


def private_path_in(text: str) -> str | None:
    """The first path into somebody's own folder."""
    found = _PATH.search(text)
    return found and found[0]
