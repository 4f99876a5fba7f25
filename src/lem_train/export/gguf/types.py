"""The types that a GGUF file's weights may be packed as."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError, did_you_mean, listing

BF16 = "BF16"
DEFAULT = ("Q4_K_M", "Q5_K_M", "Q8_0")
"""The type that most people run, a better one, and one that is close to the source."""


@dataclass(frozen=True)
class GgufType:
    """A way to pack a whole file; most of its tensors are of the type that it is named after.

    `number`: llama.cpp's for it; `block`: how many weights of a row share a scale of scales, so
    that a row whose width is no multiple of it is packed in another way; `importance`: what an
    importance matrix is to it.
    """

    name: str
    number: int
    block: int = 256
    importance: str = "helps"  # or: needed, unused


_TYPES = {
    kind.name: kind
    for kind in (
        GgufType("IQ3_XXS", 23, importance="needed"),
        GgufType("IQ3_XS", 22, importance="needed"),
        GgufType("Q3_K_S", 11),
        GgufType("Q3_K_M", 12),
        GgufType("IQ4_XS", 30),
        GgufType("Q4_K_S", 14),
        GgufType("Q4_K_M", 15),
        GgufType("Q5_K_S", 16),
        GgufType("Q5_K_M", 17),
        GgufType("Q6_K", 18),
        GgufType("Q8_0", 7, block=32, importance="unused"),
        GgufType(BF16, 32, block=1, importance="unused"),
    )
}
NAMES = tuple(_TYPES)
"""From small to large."""


def parse_types(text: str | None) -> tuple[GgufType, ...]:
    """Types by name, parted by commas and from small to large; `all`; for None, DEFAULT.

    Raises:
        ConfigError: unknown names, all of them; none at all.
    """
    if text is None:
        return tuple(_TYPES[name] for name in DEFAULT)
    if text.strip().lower() == "all":
        return tuple(_TYPES.values())
    names = {part.strip().upper().replace("-", "_") for part in text.split(",") if part.strip()}
    problems = [f"{name}{did_you_mean(name, NAMES)}" for name in sorted(names - _TYPES.keys())]
    if problems or not names:
        title = f"--types: expected all, or some of {', '.join(NAMES)}; got"
        raise ConfigError(listing(title, problems or ["none"]))
    return tuple(kind for name, kind in _TYPES.items() if name in names)
