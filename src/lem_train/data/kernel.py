"""The LEK kernel and the four ways to wrap a row with it; pure functions.

Rows stay bare on disk. The kernel's characters go into the prompt as they stand in the file: they
are never parsed and written again. Only the one newline that ends a text file is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..curriculum.schema import KernelConfig, Wrap
from ..errors import DataError, listing
from ..hashing import sha256_bytes, sha256_json
from .conversation import Conversation, Message


@dataclass(frozen=True)
class Kernel:
    """The kernel's text and closing line, and the sha256 of each file's bytes."""

    text: str
    signature: str
    text_sha256: str
    signature_sha256: str

    def sha256(self, how: Wrap) -> str | None:
        """Identity of what a row wrapped this way holds of the kernel; None for nothing."""
        if how == "none":
            return None
        if how == "sandwich":
            return sha256_json([self.text_sha256, self.signature_sha256])
        return self.text_sha256


def shuffled(kernel: Kernel) -> Kernel:
    """A kernel of the same words that says nothing: they stand in the order of a hash. Lines are
    gone, the signature stays."""
    words = kernel.text.split()
    order = sorted(range(len(words)), key=lambda at: sha256_bytes(f"{at} {words[at]}".encode()))
    text = " ".join(words[at] for at in order)
    return replace(kernel, text=text, text_sha256=sha256_bytes(text.encode()))


def load_kernel(config: KernelConfig) -> Kernel:
    """Read the kernel files.

    Raises:
        DataError: files that cannot be read, are empty or are not plain UTF-8; all are named.
    """
    problems: list[str] = []
    text, signature = (_read(path, problems) for path in (config.text, config.signature))
    if problems:
        raise DataError(listing("the kernel cannot be used:", problems))
    return Kernel(
        _without_final_newline(text),
        _without_final_newline(signature),
        sha256_bytes(text.encode()),
        sha256_bytes(signature.encode()),
    )


def wrap(conversation: Conversation, how: Wrap, kernel: Kernel | None) -> Conversation:
    """The row as it is trained on; the first user turn is the probe.

    sandwich: kernel, blank line, probe, blank line, signature, in one user message;
    prefix: kernel, blank line, probe; system: the kernel as system message; none: as it stands.

    Raises:
        DataError: the row brings a system message of its own into a `system` wrap.
    """
    if how == "none":
        return conversation
    if kernel is None:
        raise ValueError("a wrap needs a kernel")
    if how == "system":
        return _with_system(conversation, kernel)
    return _with_first_user(conversation, _PROBE_FORMS[how], kernel)


_PROBE_FORMS: dict[Wrap, Callable[[Kernel, str], str]] = {
    "sandwich": lambda kernel, probe: f"{kernel.text}\n\n{probe}\n\n{kernel.signature}",
    "prefix": lambda kernel, probe: f"{kernel.text}\n\n{probe}",
}


def _with_system(conversation: Conversation, kernel: Kernel) -> Conversation:
    if conversation.messages[0].role == "system":
        raise DataError(
            f"{conversation.source}: expected no system message where wrap is system; "
            "the kernel stands there"
        )
    return replace(conversation, messages=(Message("system", kernel.text), *conversation.messages))


def _with_first_user(
    conversation: Conversation, form: Callable[[Kernel, str], str], kernel: Kernel
) -> Conversation:
    messages = list(conversation.messages)
    first = 1 if messages[0].role == "system" else 0
    messages[first] = Message("user", form(kernel, messages[first].content))
    return replace(conversation, messages=tuple(messages))


def _read(path: Path, problems: list[str]) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return ""
    except UnicodeDecodeError as error:
        problems.append(f"{path}: expected UTF-8 ({error.reason} at byte {error.start})")
        return ""
    if text.startswith("\ufeff"):
        problems.append(f"{path}: expected UTF-8 without a byte order mark")
    elif not text.strip():
        problems.append(f"{path}: expected text, got nothing but white space")
    return text


def _without_final_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
