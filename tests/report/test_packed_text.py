"""What `lem export mlx` says of its weights, from made-up figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lem_train.export.learned import Packing
from lem_train.export.packed import Measured, PackedExport
from lem_train.report.packed import packed_lines, packed_warnings
from lem_train.run.origin import Fidelity


def fidelity(mean_kl: float) -> Fidelity:
    return Fidelity(relative_rms=0.1234, mean_kl=mean_kl, agreement=0.876, positions=512, rows="r")


GOOD = PackedExport(
    packing=Packing(4, 64, "gptq"),
    source=Measured("source", 2_000_000_000, None, 0.99991, 0.0031),
    rounded=Measured("4-bit rtn", 560_000_000, fidelity(0.02), 0.981, 0.61),
    packed=Measured("4-bit gptq", 560_000_000, fidelity(0.011), 0.985, 0.72),
    teaching=fidelity(0.9),
    left_out=0,
    unpacked=0,
)


def changed(**more: object) -> PackedExport:
    return replace(GOOD, packed=replace(GOOD.packed, **more))  # type: ignore[arg-type]


def test_source_rounding_export_and_base_stand_below_one_another() -> None:
    lines = packed_lines(Path("packed"), GOOD)
    assert lines[0] == "packed: packed to 4-bit gptq, groups of 64"
    assert [line.split() for line in lines[2:7]] == [
        ["size", "RMS", "KL", "same", "retained", "noise"],
        ["source", "2.0", "GB", "–", "–", "–", "0.9999", "0.0031"],
        ["4-bit", "rtn", "560", "MB", "0.1234", "2.0e-02", "88", "%", "0.9810", "0.61"],
        ["4-bit", "gptq", "560", "MB", "0.1234", "1.1e-02", "88", "%", "0.9850", "0.72"],
        ["the", "base", "–", "0.1234", "9.0e-01", "88", "%", "–", "–"],
    ]
    assert max(map(len, lines)) <= 60
    assert "512 positions" in " ".join(lines)


def test_columns_stand_under_their_heads() -> None:
    table = packed_lines(Path("packed"), GOOD)[2:7]
    ends = {
        line.rindex(cell) + len(cell)
        for line, cell in zip(table[1:4], ("0.0031", "0.61", "0.72"), strict=True)
    }
    assert ends == {table[0].rindex("noise") + len("noise")}


def test_what_was_not_measured_is_told_as_such() -> None:
    bare = replace(
        changed(fidelity=None, retained=None, noise=None), rounded=None, teaching=None, unpacked=3
    )
    text = " ".join(packed_lines(Path("packed"), bare))
    assert "name rows with --rows" in text
    assert "left unpacked: 3 weights whose inputs are no multiple of 64" in text
    assert "the base" not in text
    assert packed_warnings(bare) == []


def test_awq_says_why_it_has_no_figures_of_the_delta() -> None:
    awq = replace(changed(retained=None, noise=None), packing=Packing(4, 64, "awq"))
    assert "awq moves scales between layers" in " ".join(packed_lines(Path("packed"), awq))


def test_good_weights_are_written_without_a_warning() -> None:
    assert packed_warnings(GOOD) == []


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"noise": 1.01}, "does not stand out of the packing, whose error is 1 times"),
        ({"retained": 0.949}, "only 95% of what was taught is retained"),
        ({"fidelity": fidelity(0.91)}, "the packing moves answers more than the teaching did: KL "),
        ({"fidelity": fidelity(0.02)}, "gptq came out no nearer to the source than plain rounding"),
    ],
)
def test_each_bound_has_its_warning(more: dict[str, object], warning: str) -> None:
    assert warning in packed_warnings(changed(**more))[0]


@pytest.mark.parametrize(
    "more", [{"noise": 1.0}, {"retained": 0.95}, {"fidelity": fidelity(0.019)}]
)
def test_a_bound_itself_is_no_reason_to_warn(more: dict[str, object]) -> None:
    assert packed_warnings(changed(**more)) == []


def test_as_much_as_the_teaching_is_not_more() -> None:
    equal = replace(changed(fidelity=fidelity(0.9)), rounded=None)
    assert packed_warnings(equal) == []
