"""What a user can cause, as exceptions: each carries its exit code and reads as a finished message.

The command line prints the message and leaves with the code; no traceback is shown for these.
Anything else that escapes is a fault of the program.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LemError(Exception):
    """An expected failure. `exit_code` is what the process leaves with."""

    exit_code = 1


class ConfigError(LemError):
    """A curriculum, or a setting on the command line, that cannot be used."""


class DataError(LemError):
    """Rows, kernel files or their token counts that cannot be trained on."""


class WeightsError(LemError):
    """A model, tokenizer or adapter that cannot be loaded, fused or written."""


class TrainingError(LemError):
    """Training that had to stop: a loss or a gradient that is not finite."""


class RunError(LemError):
    """A run folder that cannot be used: locked, foreign, damaged, incomplete."""


class PublishError(LemError):
    """A folder that must not be published, or a hub that does not take it."""


class Interrupted(BaseException):
    """The user, or the system, asked to end. A step that was at work is finished and saved.

    It comes in the middle of other people's code, who may catch every Exception and go on.
    """

    def __init__(self, number: int, where: str = "", goes_on: bool = True) -> None:
        does = "goes on" if goes_on else "begins anew"
        super().__init__(f"interrupted{where}; the same command {does}")
        self.number = number
        self.exit_code = 128 + number


class GateError(LemError):
    """A phase that must not go on: its fuse, or what it taught, is under the bar."""

    exit_code = 3


def listing(title: str, problems: Iterable[str], most: int = 200) -> str:
    """`title` and every problem on a line of its own: all errors are shown at once, though no
    more than a screen can hold."""
    lines = list(problems)
    if len(lines) > most:
        lines[most:] = [f"… and {len(lines) - most} more"]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one nearest to it; nothing if none
    is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
