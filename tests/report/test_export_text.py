"""The table of GGUF files, and which of them is recommended."""

from __future__ import annotations

from pathlib import Path

from lem_train.export.gguf.export import GgufExport, GgufFile
from lem_train.report.export import MOST_KL, gguf_lines, recommendation
from lem_train.run.origin import Fidelity


def file(kind: str, nbytes: int, kl: float | None, fallen_back: int = 0) -> GgufFile:
    fidelity = None
    if kl is not None:
        fidelity = Fidelity(
            relative_rms=0.0378, mean_kl=kl, agreement=0.978, positions=1024, rows="0" * 64
        )
    return GgufFile(
        kind, f"mine-{kind}.gguf", nbytes, 5.66, 183, fallen_back, kl is not None, fidelity
    )


def test_the_smallest_file_under_the_bound_is_recommended() -> None:
    files = [
        file("IQ3_XXS", 500_000_000, 2 * MOST_KL),
        file("Q4_K_M", 806_058_240, MOST_KL / 2),
        file("Q8_0", 1_070_000_000, MOST_KL / 100),
    ]
    assert recommendation(files).startswith("Recommended: Q4_K_M, the smallest")
    assert str(MOST_KL) in recommendation(files)


def test_a_file_at_the_bound_is_not_good_enough() -> None:
    text = recommendation([file("Q8_0", 9, MOST_KL), file("IQ3_XS", 5, 3 * MOST_KL)])
    assert text.startswith("None is recommended")
    assert "Q8_0 comes nearest" in text


def test_what_was_not_measured_is_never_recommended() -> None:
    text = recommendation([file("Q8_0", 9, None), file("BF16", 10, None)])
    assert text.startswith("Nothing was measured")
    assert "--rows" in text
    mixed = recommendation([file("Q4_K_M", 5, None), file("Q8_0", 9, 0.001)])
    assert mixed.startswith("Recommended: Q8_0")


def test_the_table_has_every_figure_and_fits_60_columns() -> None:
    files = (file("Q4_K_M", 806_058_240, 0.0123, 182), file("Q8_0", 1_070_000_000, None))
    lines = gguf_lines(Path("out"), GgufExport(files, ("F32 matrices are rounded to BF16",)))
    assert max(map(len, lines)) <= 60
    row = next(line for line in lines if line.startswith("  Q4_K_M")).split()
    assert row == ["Q4_K_M", "806", "MB", "5.66", "0.0378", "1.2e-02", "98%"]
    bare = next(line for line in lines if line.startswith("  Q8_0")).split()
    assert bare[-3:] == ["–", "–", "–"]
    text = " ".join(lines)
    assert "182 of 183 matrices" in text
    assert "F32 matrices are rounded" in text
    assert "1,024 positions" in text
    assert "llama.cpp's own arithmetic" in text


def test_a_missing_matrix_is_told_where_it_would_help() -> None:
    told = "without an importance matrix"
    small = GgufExport((file("Q4_K_M", 5, None),), ())
    large = GgufExport((file("Q8_0", 5, None), file("BF16", 9, None)), ())
    assert told in " ".join(gguf_lines(Path("out"), small))
    assert told not in " ".join(gguf_lines(Path("out"), large))
