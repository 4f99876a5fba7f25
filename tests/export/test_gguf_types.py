"""Which types there are, and how they are asked for."""

from __future__ import annotations

import pytest

from lem_train.cli.complete import gguf_types
from lem_train.errors import ConfigError
from lem_train.export.gguf.types import DEFAULT, NAMES, parse_types


def test_the_published_types_have_llama_cpps_numbers() -> None:
    gguf = pytest.importorskip("gguf")
    for kind in parse_types("all"):
        assert gguf.LlamaFileType[f"MOSTLY_{kind.name}"] == kind.number
    assert len(NAMES) == 12


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, DEFAULT),
        ("all", NAMES),
        (" ALL ", NAMES),
        ("q8_0, q4-k-m,Q8_0", ("Q4_K_M", "Q8_0")),
    ],
)
def test_types_are_named_as_people_write_them(text: str | None, names: tuple[str, ...]) -> None:
    assert tuple(kind.name for kind in parse_types(text)) == names


def test_unknown_types_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_types("Q4_KM,Q8_0,moon")
    message = str(caught.value)
    assert "Q4_KM; did you mean Q4_K_M?" in message
    assert "MOON" in message
    assert "Q8_0\n" not in message


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_no_type_at_all_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="got\n  none"):
        parse_types(text)


def test_completion_goes_on_after_a_comma() -> None:
    assert gguf_types("") == [*NAMES, "all"]
    assert "Q8_0,Q6_K" in gguf_types("Q8_0,Q")
    assert "Q8_0,Q8_0" not in gguf_types("Q8_0,")
