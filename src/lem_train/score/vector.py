"""The feature vector of an answer: nineteen dimensions in a fixed order (LEM protocol, scoring),
as JSON and as a safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import DataError
from ..files import write_atomic

GRAMMAR = (
    "vocab_richness",
    "tense_entropy",
    "question_ratio",
    "domain_depth",
    "verb_diversity",
    "noun_diversity",
)
HEURISTIC = (
    "non_compliance",
    "authentic_voice",
    "first_person",
    "creative_form",
    "engagement_depth",
    "emotional_register",
    "non_degenerate",
    "response_integrity",
)
ATTENTION = (
    "mean_coherence",
    "cross_layer_alignment",
    "head_entropy",
    "phase_lock",
    "joint_stability",
)
LABELS = (*GRAMMAR, *HEURISTIC, *ATTENTION)

_TENSOR, _ABOUT = "features", "rows"


@dataclass(frozen=True, eq=False)
class Vectors:
    """Feature vectors of many answers: `values` (N, 19) float32, a row for every id."""

    ids: tuple[str, ...]
    values: NDArray[np.float32]


def as_values(signals: Mapping[str, float]) -> tuple[float, ...]:
    """The nineteen values in the order of `LABELS`, from signals by name.

    Raises:
        ValueError: signals that are missing, unknown or not finite; all are named.
    """
    wrong = [f"{label}: missing" for label in LABELS if label not in signals]
    wrong += [f"{label}: unknown" for label in signals if label not in LABELS]
    wrong += [f"{label}: {value}" for label, value in signals.items() if not math.isfinite(value)]
    if wrong:
        raise ValueError(f"expected the {len(LABELS)} signals, got {', '.join(wrong)}")
    return tuple(float(signals[label]) for label in LABELS)


def as_json(values: Sequence[float]) -> dict[str, float]:
    """Values in the order of `LABELS` by name. Raises ValueError where they are not nineteen."""
    return {label: float(value) for label, value in zip(LABELS, values, strict=True)}


def write_vectors(path: Path, ids: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Write a safetensors file: a tensor `features` (N, 19) float32, and under `rows` in the
    metadata the labels and ids as JSON: under one key, since the library writes several in an
    order that changes, and the same scores should be the same bytes.

    Raises:
        ValueError: not nineteen finite values for every id, or an id twice.
        OSError: the file cannot be written.
    """
    features = np.asarray(values if len(values) else np.empty((0, len(LABELS))), np.float32)
    if features.shape != (len(ids), len(LABELS)) or not np.isfinite(features).all():
        raise ValueError(f"expected {len(LABELS)} finite values for each of {len(ids)} ids")
    if len(set(ids)) < len(ids):
        raise ValueError("expected every id once")
    about = json.dumps({"labels": LABELS, "ids": list(ids)}, ensure_ascii=False)
    write_atomic(path, save({_TENSOR: features}, metadata={_ABOUT: about}))


def read_vectors(path: Path) -> Vectors:
    """Read what `write_vectors` wrote.

    Raises:
        DataError: the file cannot be read, or is no such file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors, metadata = set(file.keys()), file.metadata() or {}
            values = file.get_tensor(_TENSOR) if _TENSOR in tensors else None
        about = json.loads(metadata.get(_ABOUT, "null"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: expected feature vectors, got a broken file: {error}") from error
    problem = _wrong(values, about)
    if problem is not None or values is None:
        raise DataError(f"{path}: expected feature vectors, got {problem}; score again")
    return Vectors(tuple(about["ids"]), values)


def _wrong(values: NDArray[np.float32] | None, about: object) -> str | None:
    """What keeps a file's tensor and its description from being feature vectors."""
    if values is None:
        return f"no tensor {_TENSOR}"
    if not isinstance(about, dict) or not isinstance(about.get("ids"), list):
        return f"no labels and ids under {_ABOUT} in the metadata"
    if about.get("labels") != list(LABELS):
        return "other labels, or in another order"
    if not all(isinstance(each, str) for each in about["ids"]):
        return "ids that are no text"
    shape = (len(about["ids"]), len(LABELS))
    if values.shape != shape or values.dtype != np.float32:
        return f"{values.dtype} of shape {values.shape} where float32 {shape} belongs"
    return None
