"""The kernel is stripped from what was wrapped, and what an answer repeats of it is counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.curriculum.schema import KernelConfig
from lem_train.data.conversation import Conversation, Message
from lem_train.data.kernel import Kernel, load_kernel, wrap
from lem_train.score.leakage import kernel_shingles, leaks, without_kernel

FOLDER = Path(__file__).parents[2] / "kernel"
SHIPPED = load_kernel(
    KernelConfig(text=FOLDER / "lek-1-kernel.txt", signature=FOLDER / "lek-1-sig.txt")
)
AXIOMS = load_kernel(KernelConfig(text=FOLDER / "axioms.json", signature=FOLDER / "lek-1-sig.txt"))
TEN = "one two three four five six seven eight nine ten"
SMALL = Kernel(f"{TEN}.\n\nEleven, (twelve)?", "Go in now.", "0" * 64, "1" * 64)
PROBES = st.text("abc Ωé.?(\n", max_size=40).map(str.strip).filter(bool)


def wrapped(probe: str, how: Literal["sandwich", "prefix"], kernel: Kernel) -> str:
    row = Conversation("a", (Message("user", probe), Message("assistant", "x")), "a")
    return wrap(row, how, kernel).messages[0].content


@settings(deadline=None)
@given(PROBES, st.sampled_from(["sandwich", "prefix"]), st.sampled_from([SMALL, SHIPPED, AXIOMS]))
def test_what_was_wrapped_is_bare_again(
    probe: str, how: Literal["sandwich", "prefix"], kernel: Kernel
) -> None:
    assert without_kernel(wrapped(probe, how, kernel), kernel) == probe


@settings(deadline=None)
@given(PROBES)
def test_a_bare_text_stays_as_it_is(probe: str) -> None:
    for text in (probe, f"  {probe}\n\n\n{probe} \n"):
        assert without_kernel(text, SMALL) == text


@pytest.mark.parametrize("kernel", [SMALL, SHIPPED, AXIOMS], ids=["small", "shipped", "axioms"])
def test_a_templates_white_space_does_not_hide_it(kernel: Kernel) -> None:
    text = wrapped("Who  are\nyou?", "sandwich", kernel)
    probe = "Who  are\nyou?"
    joined = " ".join(kernel.text.split())
    crlf = kernel.text.replace("\n", "\r\n")
    stripped = "\n".join(line.strip() for line in kernel.text.splitlines() if line.strip())
    for form in (joined, crlf, stripped, f"\n\n {kernel.text}\t"):
        assert without_kernel(text.replace(kernel.text, form), kernel) == probe


def test_a_template_round_it_stays() -> None:
    text = f"<start_of_turn>user\n{wrapped('Who?', 'sandwich', SMALL)}<end_of_turn>\n"
    assert without_kernel(text, SMALL) == "<start_of_turn>user\n\nWho?\n\n<end_of_turn>"


def test_it_goes_wherever_an_answer_repeats_it() -> None:
    answer = f"First: {SMALL.text} Then {SMALL.signature}\nAnd {SMALL.text}"
    assert without_kernel(answer, SMALL) == "First:\n\nThen\n\nAnd"
    assert without_kernel(SMALL.text, SMALL) == ""


def test_words_that_go_on_are_not_the_kernel() -> None:
    kernel = Kernel("be kind", "go in", "0" * 64, "1" * 64)
    for text in ("maybe kind", "be kindly", "be  kin", "going in", "Be kind"):
        assert without_kernel(text, kernel) == text


def test_a_kernels_marks_are_no_pattern() -> None:
    kernel = Kernel(".* (a|b)+ [c]", "$ ^ \\d", "0" * 64, "1" * 64)
    assert without_kernel(".* (a|b)+ [c]\n\nWho?\n\n$ ^ \\d", kernel) == "Who?"
    assert without_kernel("xx a c 1", kernel) == "xx a c 1"


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ("", 0),
        ("one two three four five six seven", 0),  # seven words are anybody's
        ("one two three four five six seven eight", 1),
        (f"So: {TEN.upper()}!", 3),  # ten words hold three runs of eight
        (f"{TEN}. {TEN}", 3),  # different runs count, and none goes across the seam
        (f"{TEN} eleven twelve", 5),
        ("one, two; three — four (five) six\nseven *eight*", 1),
        ("one two three four x five six seven eight nine ten", 0),
        ("three four five six seven eight nine", 0),
        ("nine ten eleven twelve go in now", 0),  # the kernel does not run on into its signature
    ],
)
def test_leaks_are_counted(answer: str, count: int) -> None:
    assert leaks(answer, SMALL) == count


def test_the_shingles_of_a_kernel() -> None:
    found = kernel_shingles(SMALL)  # twelve words have five runs of eight; three words none
    assert found == {
        "one two three four five six seven eight",
        "two three four five six seven eight nine",
        "three four five six seven eight nine ten",
        "four five six seven eight nine ten eleven",
        "five six seven eight nine ten eleven twelve",
    }
    assert kernel_shingles(SMALL) is found


def test_the_signature_leaks_too_and_what_was_stripped_leaks_nothing() -> None:
    assert leaks(SHIPPED.signature, SHIPPED) == 22 - 7  # of its 22 words
    assert leaks(wrapped("Who are you?", "sandwich", SHIPPED), SHIPPED) > 1_500
    assert leaks(without_kernel(wrapped("Who?", "sandwich", SHIPPED), SHIPPED), SHIPPED) == 0


def test_a_megabyte_takes_no_time() -> None:
    begun = time.perf_counter()
    for unit in ("Before ", "Before you answer, there is\n", " ", SHIPPED.text[:200] + " ", "x"):
        text = unit * (1_000_000 // len(unit))
        assert without_kernel(text, SHIPPED) == text
        leaks(text, SHIPPED)
    assert time.perf_counter() - begun < 20
