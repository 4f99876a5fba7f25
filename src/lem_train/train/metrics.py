"""What training reports, apart from the code that needs MLX to produce it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainMetrics:
    """One iteration (micro-batch). The last three are set where the window made an update.

    `loss`: mean nats a supervised token; `tokens`, `supervised`: counted without padding;
    `seconds`: since the previous iteration, validation not included; `peak_memory`: bytes.
    """

    iteration: int
    loss: float
    tokens: int
    supervised: int
    seconds: float
    peak_memory: int
    update: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True)
class ValMetrics:
    """Loss over the whole validation set after `iteration` iterations; mean nats a token."""

    iteration: int
    val_loss: float
    seconds: float
