"""What must not leave a machine: keys and passwords, and paths that say whose machine it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Each is named by what it is: the value itself is never told. Most begin with fixed letters,
# or a tokenizer's 30 MB would take long.
_KEYS = {
    name: re.compile(pattern)
    for name, pattern in {
        "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
        "a Hugging Face token": r"hf_[A-Za-z0-9]{30,}",
        "a key of an AI provider": r"sk-(?<!\wsk-)(?=[\w-]*\d)[\w-]{20,}",
        "an AWS key": r"A(?:KIA|SIA)[A-Z0-9]{16}\b",
        "a GitHub token": r"g(?:h[pousr]_[A-Za-z0-9]{36,}|ithub_pat_\w{40,})",
        "a GitLab token": r"glpat-[\w-]{20,}",
        "a Slack token": r"xox[abprs]-[A-Za-z0-9-]{10,}",
        "a Google key": r"AIza[\w-]{35}",
        "a Stripe key": r"[rs]k_live_[A-Za-z0-9]{16,}",
        "an npm token": r"npm_[A-Za-z0-9]{36}\b",
        "a signed web token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
        "an address with a password": r"://[^\s/:@\"']+:[^\s/:@\"']+@",
    }.items()
}
# A setting's name and what may be its value. It is not for rows, which may talk of passwords, and
# takes as long as all the others together three times.
_SETTING = re.compile(
    r"(?i:(?:api|secret|access|auth)[_-]?(?:key|token)|passw(?:or)?d)"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
    r"(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+/=.-]{16,}"
)
_END = r"[^\s\x00-\x1f\x7f-\x9f\"'<>|:;,()\[\]{}`\\/]+"
_PATHS = (
    re.compile(rf"/(?:Users|home|root|tmp|private|Volumes|var/folders|var/tmp)/{_END}(?:/{_END})*"),
    re.compile(rf":(?:\\{{1,2}}|/)Users(?:\\{{1,2}}|/){_END}"),
)
_WITHIN = re.compile(r"[\w.~/-]")  # before a path that is the end of another, or of an address


def leaks(text: str) -> Iterator[tuple[int, str]]:
    """Line and words for everything in a text that must not be published, from its beginning on."""
    settings = ((match.start(), "a key or password") for match in _SETTING.finditer(text))
    paths = ((start, f"a path of a machine, {path}") for start, path in _paths(text))
    for start, words in sorted([*_keys(text), *settings, *paths]):
        yield text.count("\n", 0, start) + 1, words


def key_in(text: str) -> str | None:
    """What the first key in a text is, known by its form; None without one."""
    return next((name for _, name in _keys(text)), None)


def _keys(text: str) -> Iterator[tuple[int, str]]:
    for name, form in _KEYS.items():
        for match in form.finditer(text):
            yield match.start(), name


def _paths(text: str) -> Iterator[tuple[int, str]]:
    for form in _PATHS:
        for match in form.finditer(text):
            if match[0].startswith(":") or _begins(text, match.start()):
                yield match.start(), match[0].lstrip(":")


def _begins(text: str, start: int) -> bool:
    return text.endswith("file://", 0, start) or not _WITHIN.match(text[max(0, start - 1) : start])
