"""Which teacher a machine has the memory for."""

from __future__ import annotations

from ..errors import RunError

_GB = 1 << 30
# A machine tells a little less than it is sold as.
_SIZES = ((0.9 * 32 * _GB, "27B"), (0.9 * 16 * _GB, "12B"), (0.9 * 8 * _GB, "4B"))


def advised(memory: int) -> str:
    """The largest published teacher for so many bytes of memory, packed to 4 bits."""
    size = next((size for least, size in _SIZES if memory >= least), "1B")
    return f"{size} at 4 bits"


def check_room(model: str, weights: int, usable: int, memory: int) -> None:
    """Refuse a model that would push everything else, and itself, out of memory.

    Args:
        weights: bytes of the model's files. usable: bytes that a model may fill on this machine.

    Raises:
        RunError: it would not fit.
    """
    if weights > usable:
        raise RunError(
            f"{model}: its weights have {weights / _GB:.1f} GiB, of this machine's "
            f"{memory / _GB:.1f} GiB a model may fill {usable / _GB:.1f}; take a teacher of "
            f"{advised(memory)}"
        )
