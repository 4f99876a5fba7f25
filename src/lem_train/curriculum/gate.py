"""What a phase's gate may ask for, as one line each: `grammar >= 30`, `leakage = 0`,
`grammar >= base + 2`, `capability >= ethics - 0.05`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

# Means over the probes; sycophancy, leakage and capability are shares of them. val_loss is the
# phase's own, in nats a token.
SCORED = ("grammar", "uplift", "echo", "enrichment", "sycophancy", "heuristic", "leakage")
MEASURES = (*SCORED, "capability", "val_loss")
BASELINES = ("base", "kernel")  # the base alone, and with the kernel round the probes

_SIGNS = {">=": ">=", "≥": ">=", "<=": "<=", "≤": "<=", "=": "="}
_SIGN = ">=|<=|=|≥|≤"
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_FORM = re.compile(
    rf"(?P<measure>[a-z_]+) *(?P<sign>{_SIGN}) *(?:(?P<number>{_NUMBER})"
    r"|(?P<reference>[a-z0-9][a-z0-9_-]*?)(?: *(?P<plus>[-+]) +(?P<offset>\d+(?:\.\d+)?))?)"
)


@dataclass(frozen=True)
class Requirement:
    """A bound on a measure: `number`, or what `reference` reached plus `number`."""

    measure: str
    sign: str
    reference: str | None
    number: float

    def __str__(self) -> str:
        if self.reference is None:
            return f"{self.measure} {self.sign} {_plain(self.number)}"
        sign = "+" if self.number > 0 else "-"
        offset = f" {sign} {_plain(abs(self.number))}" if self.number else ""
        return f"{self.measure} {self.sign} {self.reference}{offset}"

    def holds(self, value: float, bound: float) -> bool:
        """Whether `value` keeps to `bound`; NaN keeps to nothing."""
        return {">=": value >= bound, "<=": value <= bound, "=": value == bound}[self.sign]


def parse_requirement(text: str) -> Requirement:
    """Raises ValueError for a line of another form, or a measure that is unknown."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"expected a requirement, e.g. grammar >= 30 or grammar >= base + 2, got {text}"
        )
    if found["measure"] not in MEASURES:
        raise ValueError(f"expected one of {', '.join(MEASURES)}, got {found['measure']}")
    number = float(found["number"] or f"{found['plus'] or ''}{found['offset'] or 0}")
    return Requirement(found["measure"], _SIGNS[found["sign"]], found["reference"], number)


def _plain(number: float) -> str:
    """All digits that count, and no exponent: it can be read again."""
    return f"{Decimal(repr(number)).normalize():f}"
