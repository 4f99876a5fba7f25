"""Curricula that cannot be used."""

from __future__ import annotations

from catalogue import Case

CASES = [
    Case(
        "a tab for indentation",
        lambda project: project.edit("pico.yaml", "  lora:", "\tlora:"),
        place="pico.yaml:5",
        expected="indent with spaces",
        found="a tab",
    ),
    Case(
        "a key that is unknown",
        lambda project: project.edit("pico.yaml", "name: pico", "name: pico\nphase: x"),
        place="(pico.yaml:2)",
        expected="did you mean phases?",
        found="unknown key",
    ),
]
