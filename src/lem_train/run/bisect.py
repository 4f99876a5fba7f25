"""Which phase brought an answer: one prompt under the base and after every phase, by what the run
has stored.

Every state is held against the one before it along the same text, the answer that the last phase
gives: the behaviour that is looked for stands in it, which need not be so in the base's. How likely
the base's answer still is under each state is told beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from ..data.batch import collate
from ..data.tokenize import ChatTokenizer, Example
from ..errors import RunError
from ..score.answers import tokenize_prompts
from ..train.generate import generate
from ..train.loss import Forward, choose_forward
from ..weights.base import Base
from ..weights.chat import load_chat_tokenizer
from ..weights.in_memory import load_dense, set_weights, touched
from ..weights.lineage import Delta
from ..weights.verify import divergences
from .fuse import finished_phases, open_lineage
from .machine import out_of_memory
from .records import RunRecord
from .store import read_begun

_SHOWN = 3  # tokens that rose most, and as many that fell
_AT_ONCE = 32  # positions: bounds the memory beside the logits


@dataclass(frozen=True)
class Moved:
    """A token of the last phase's answer, at `place` from 0, and by how many nats its
    log-probability is above that of the state before."""

    place: int
    text: str
    rise: float


@dataclass(frozen=True)
class Parting:
    """The first token, at `place` from 0, in which an answer differs from the state before's; None
    where an answer has ended."""

    place: int
    before: str | None
    here: str | None


@dataclass(frozen=True)
class State:
    """What the model answers after a phase, and how its distribution moved.

    Attributes:
        phase: None for the base, in the form in which weights are handed on.
        finished: whether the model ended the answer; false where `max_tokens` cut it.
        last: log-probability of the last phase's answer under this state, nats a position; the
            positions are its tokens and, if it was finished, its end.
        base: of the base's answer, likewise.
        kl: KL(this ‖ state before), mean nats a position of the last phase's answer: large where
            something became likely that was not. None for the base, as what follows.
        parting: None too where the answers are the same.
        rose: tokens whose log-probability rose most, first; `fell` likewise.
    """

    phase: str | None
    answer: str
    finished: bool
    last: float
    base: float
    kl: float | None = None
    parting: Parting | None = None
    rose: tuple[Moved, ...] = ()
    fell: tuple[Moved, ...] = ()


@dataclass(frozen=True)
class Share:
    """What a phase brought of the whole.

    `rise`: nats a position by which the last answer's log-probability rose; `of_rise`: its share
    of all rises, 0 for a fall; `of_kl`: its share of the summed KL. A share of nothing is 0.
    """

    phase: str
    rise: float
    of_rise: float
    of_kl: float


def bisect_run(
    run: Path, prompt: str, max_tokens: int, trust_remote_code: bool = False
) -> Iterator[State]:
    """The base, then every finished phase in order, each as soon as it is measured.

    The base is loaded once; each state's weights are those that the phase handed on, bit for bit.
    The prompt is asked bare, as a user's turn, and answered greedily.

    Raises:
        RunError: no run, no finished phase, changed adapters, another base, no memory left.
        WeightsError: a base that cannot be opened.
        DataError: a prompt that cannot be asked.
    """
    record, curriculum = read_begun(run)
    phases = finished_phases(run, curriculum, record.base)
    if not phases:
        raise RunError(f"{run}: expected a finished phase, found none; go on with `lem train`")
    base, deltas = open_lineage(run, record, curriculum, phases, trust_remote_code)
    chat = load_chat_tokenizer(base.folder, base.trust_remote_code)
    asked = tokenize_prompts(chat, [prompt], names=["the prompt"])[0]
    names = [phase.name for phase in phases]
    try:
        yield from _states(base, deltas, names, record, chat, asked, max_tokens)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise RunError(
            f"{run}: the memory does not suffice for these answers ({error}); lower --max-tokens"
        ) from error


def _states(
    base: Base,
    deltas: Sequence[Delta],
    names: Sequence[str],
    record: RunRecord,
    chat: ChatTokenizer,
    asked: Sequence[int],
    max_tokens: int,
) -> Iterator[State]:
    modules = touched(base, deltas)
    model = load_dense(base, record.dtype)
    at = _Asking(model, choose_forward(model), chat, asked, max_tokens)
    set_weights(model, base, modules, deltas, record.dtype, record.seed)
    last = at.answer()  # first of all: every state is held against the one before along it
    first: list[int] | None = None
    before: _Seen | None = None
    for count, name in enumerate([None, *names]):
        set_weights(model, base, modules, deltas[:count], record.dtype, record.seed)
        answer = last if count == len(names) else at.answer()
        first = answer if first is None else first
        logits = at.logits(last)
        here = _Seen(answer, logits, at.log_probabilities(last, logits))
        of_base = at.log_probabilities(first, at.logits(first))
        means = float(here.known.mean()), float(of_base.mean())
        state = State(name, chat.decode(answer), at.ended(answer), *means)
        yield state if before is None else _against(before, here, state, last, chat)
        before = here


def shares(states: Sequence[State]) -> list[Share]:
    """What each phase brought, in order."""
    pairs = list(pairwise(states))
    rises = [here.last - before.last for before, here in pairs]
    whole = sum(max(rise, 0.0) for rise in rises)
    moved = sum(state.kl or 0.0 for state in states)
    return [
        Share(
            here.phase or "",
            rise,
            max(rise, 0.0) / whole if whole else 0.0,
            (here.kl or 0.0) / moved if moved else 0.0,
        )
        for rise, (_, here) in zip(rises, pairs, strict=True)
    ]


def found(states: Sequence[State], text: str) -> list[bool]:
    """Whether a text stands in each answer, in capitals or not."""
    return [text.casefold() in state.answer.casefold() for state in states]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A state's own answer; its logits (N, V) along the last phase's, and the log-probabilities
    (N,) of that one."""

    answer: Sequence[int]
    logits: mx.array
    known: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Asking:
    """A model whose weights change, and what it is asked: token ids that an answer follows."""

    model: nn.Module
    forward: Forward
    chat: ChatTokenizer
    asked: Sequence[int]
    max_tokens: int

    def answer(self) -> list[int]:
        return generate(self.model, [self.asked], self.chat.stop_ids, self.max_tokens, 1)[0]

    def ended(self, answer: Sequence[int]) -> bool:
        return len(answer) < self.max_tokens

    def logits(self, answer: Sequence[int]) -> mx.array:
        """(N, V) float32 at an answer's tokens and, if it was ended, at its end."""
        # The last token is only a target: any stands for the end.
        ends = [min(self.chat.stop_ids)] if self.ended(answer) else []
        ids = np.array([*self.asked, *answer, *ends], dtype=np.int32)
        mask = np.arange(len(ids)) >= len(self.asked)
        logits = self.forward.logits(collate([Example("", "", ids, mask)]))
        mx.eval(logits)
        return logits

    def log_probabilities(self, answer: Sequence[int], logits: mx.array) -> NDArray[np.float64]:
        """(N,) nats: of an answer's tokens and, if it was ended, of any token that ends it."""
        return token_log_probabilities(
            logits, answer, self.chat.stop_ids if self.ended(answer) else ()
        )


def token_log_probabilities(
    logits: mx.array, answer: Sequence[int], ends: Collection[int]
) -> NDArray[np.float64]:
    """Log-probability of each token of an answer (n,) by logits (N, V), and of any of `ends` at the
    position after it, where there are some; N = n, or n + 1."""
    own = [logits[at, token] for at, token in enumerate(answer)]
    own += [mx.logsumexp(logits[len(answer), mx.array(sorted(ends))])] if ends else []
    return np.array(mx.stack(own) - mx.logsumexp(logits, axis=-1)).astype(np.float64)


def divergence(here: mx.array, before: mx.array) -> float:
    """Mean over positions of KL(here ‖ before), nats, of logits (N, V): summed over the vocabulary
    in float32, over positions in float64. A NaN stays a NaN."""
    total = 0.0
    for start in range(0, here.shape[0], _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        total += float(np.array(divergences(here[part], before[part])).sum(dtype=np.float64))
    return float(np.maximum(total / here.shape[0], 0.0))


def _against(
    before: _Seen, here: _Seen, state: State, last: Sequence[int], chat: ChatTokenizer
) -> State:
    """`state`, with how it moved from the one before."""
    rose, fell = _most(chat, last, here.known - before.known)
    return replace(
        state,
        kl=divergence(here.logits, before.logits),
        parting=_parting(chat, before.answer, here.answer),
        rose=rose,
        fell=fell,
    )


def _most(
    chat: ChatTokenizer, answer: Sequence[int], moved: NDArray[np.float64]
) -> tuple[tuple[Moved, ...], tuple[Moved, ...]]:
    """The tokens of an answer that rose most, and those that fell; its end is none of them."""
    rises = [Moved(at, chat.decode([id_]), float(moved[at])) for at, id_ in enumerate(answer)]
    ordered = sorted(rises, key=lambda each: each.rise)
    return (
        tuple(each for each in reversed(ordered[-_SHOWN:]) if each.rise > 0),
        tuple(each for each in ordered[:_SHOWN] if each.rise < 0),
    )


def _parting(chat: ChatTokenizer, before: Sequence[int], here: Sequence[int]) -> Parting | None:
    if list(before) == list(here):
        return None
    same = [one == other for one, other in zip(before, here, strict=False)]
    place = same.index(False) if False in same else len(same)
    one, other = (chat.decode(ids[place : place + 1]) or None for ids in (before, here))
    return Parting(place, one, other)
