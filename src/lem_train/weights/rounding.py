"""From float32 to the dtype that is handed on.

Rounding to nearest loses what is smaller than half a step of the weight it is added to, always in
the same direction: a small delta on large weights disappears. Stochastic rounding goes up or down
with the probability that makes the mean exact, so that the delta survives in the sum over the
matrix. The randomness comes from a key: the same key gives the same bits.
"""

from __future__ import annotations

import mlx.core as mx


def round_to(x: mx.array, dtype: mx.Dtype, key: mx.array | None = None) -> mx.array:
    """`x`, float32 of any shape, in `dtype`: stochastically to bfloat16 with a key, else nearest.

    float16 keeps three more bits than bfloat16 and float32 all of them; both are rounded to
    nearest.
    """
    if dtype == mx.bfloat16 and key is not None:
        return _stochastic_bfloat16(x, key)
    return x.astype(dtype)


def _stochastic_bfloat16(x: mx.array, key: mx.array) -> mx.array:
    # bfloat16 is float32 without its low 16 bits. Adding a uniform 16-bit number carries into the
    # part that stays with a probability of exactly the part that goes, for either sign.
    bits = x.view(mx.uint32)
    noise = mx.random.randint(0, 1 << 16, x.shape, dtype=mx.uint32, key=key)
    rounded = ((bits + noise) >> 16).astype(mx.uint16).view(mx.bfloat16)
    return mx.where(mx.isfinite(x), rounded, x.astype(mx.bfloat16))
