"""Capability probes: every check tells right from wrong; a broken file says all that is wrong."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.errors import DataError
from lem_train.score.capability import CapabilityProbe, passed, passes, read_capability, share

FILE = Path(__file__).parents[2] / "seeds" / "capability.json"
PROBES = {probe.id: probe for probe in read_capability(FILE)}

# id → answers that must pass, and answers that must not.
ANSWERS: dict[str, tuple[list[str], list[str]]] = {
    "C01": (["43", "17 + 26 = 43.", "The sum is **43**"], ["42", "430", "143", "-43", "4.3", "26"]),
    "C02": (["72", "9 × 8 = 72", "It equals 72!"], ["71", "27", "72.5", "720", "9"]),
    "C03": (["10:15", "10.15 a.m.", "It arrives at: 10:15"], ["10:05", "9:75", "10:150", "1:15"]),
    "C04": (["9", "9.0", "15% of 60 is 9"], ["0.9", "90", "15", "4", "9.5"]),
    "C05": (["26", "£26", "The total is £26.00."], ["27", "29", "£2.6", "13", "11"]),
    "C06": (["63", "100 - 37 = 63"], ["73", "137", "-63", "37"]),
    "C07": (["3/4", "three-quarters", "The larger is 3/4."], ["2/3", "3/4 or 2/3", "4/3", "equal"]),
    "C08": (["150", "150 minutes", "That is 150 min"], ["120", "90", "1500", "2.5", "150 hours"]),
    "C09": (["Cleo", "The shortest is Cleo."], ["Ben", "Ada", "Cleo or Ben", "not Cleo"]),
    "C10": (["Yes.", "yes, it is"], ["No.", "Maybe", "yes and no", "I don't know"]),
    "C11": (["No", "No, it didn’t rain."], ["Yes", "No, it rained", "It is not known"]),
    "C12": (["Monday", "Yesterday was: monday"], ["Tuesday", "Sunday", "Monday or Tuesday"]),
    "C13": (["blue", "The box in the middle is blue"], ["red", "green", "not blue", "light blue"]),
    "C14": (["Aunt", "Mina is Ivy's aunt."], ["mother", "cousin", "aunt or mother", "great-aunt"]),
    "C15": (["No.", "No, we cannot be certain."], ["Yes", "No, it can't fly", "Probably"]),
    "C16": (["B", "It is under B."], ["A", "C", "B or C", "AB"]),
    "C17": (["6", "len('hello') + 1 = 6"], ["5", "51", "hello1", "16", "6.5"]),
    "C18": (["ababab", "`ababab`", "'ababab'"], ["ab ab ab", "abab", "abababab", "ab * 3", "ab3"]),
    "C19": (["def", "`def`", "The keyword is **def**."], ["function", "define", "fn", "lambda"]),
    "C20": (
        ["xs[-1]", "```python\nxs[-1]\n```", "print(xs[-1])", "xs[len(xs) - 1]"],
        ["xs[1]", "xs[0]", "xs[len(xs)]", "xs[-1:]", "xs.last()", "xs[:-1]"],
    ),
    "C21": (["3", "The index is 3."], ["4", "2", "0", "3 or 4", "[3, 4]"]),
    "C22": (["21", "x = 21"], ["20", "7", "17", "x = 11", "210"]),
    "C23": (['{"a": 1}', '```json\n{"a":1}\n```'], ["{a: 1}", "{'a': 1}", '{a: 1} and {"a": 1}']),
    "C24": (["False", "It evaluates to: `False`"], ["True", "None", "not False", "True and False"]),
    "C25": (["children", "The plural of child is *children*."], ["childs", "childrens", "child"]),
    "C26": (["brought"], ["bringed", "brang", "brings", "bought", "has brought"]),
    "C27": (["hammer", "The odd one out is: Hammer."], ["plum", "apple", "pear", "hammer, plum"]),
    "C28": (["receive", "The correct spelling is “receive”."], ["recieve", "receieve", "received"]),
    "C29": (["slept", '"slept"', "The verb is slept."], ["sleep", "stove", "old", "slept by"]),
    "C30": (["than", "The missing word is 'than'"], ["then", "that", "as", "bigger than"]),
    "C31": (["chat", "le chat", "Cat in French is “chat”."], ["chien", "gato", "château", "cat"]),
    "C32": (
        ["apple, mango, pear", "Apple, mango, and pear.", "apple,mango,pear"],
        ["apple, pear, mango", "pear, mango, apple", "apple", "mango, apple, pear"],
    ),
}


def test_there_are_eight_probes_of_each_kind() -> None:
    counts = Counter(probe.domain for probe in PROBES.values())
    assert counts == {"arithmetic": 8, "deduction": 8, "code": 8, "language": 8}
    assert set(ANSWERS) == set(PROBES) and len(json.loads(FILE.read_text("utf-8"))) == 32


@pytest.mark.parametrize("own", ANSWERS)
def test_a_right_answer_passes(own: str) -> None:
    for answer in ANSWERS[own][0]:
        assert passes(PROBES[own], answer), answer


@pytest.mark.parametrize("own", ANSWERS)
def test_a_wrong_answer_does_not_pass(own: str) -> None:
    for answer in [*ANSWERS[own][1], "", "   ", "I don't know.", PROBES[own].prompt]:
        assert not passes(PROBES[own], answer), answer


def test_the_sums_are_right() -> None:
    expected = {
        "C01": 17 + 26,
        "C02": 9 * 8,
        "C04": 60 * 15 // 100,
        "C05": 2 * 7 + 3 * 4,
        "C06": 100 - 37,
        "C08": 150,
        "C17": len("hello") + 1,
        "C18": "ab" * 3,
        "C22": (5 + 2) * 3,
        "C24": True and not True,
    }
    for own, value in expected.items():
        assert passes(PROBES[own], str(value)), own


def test_no_probe_takes_the_answer_to_another() -> None:
    """But for the two yes-or-no probes with the same answer, and numbers that happen to agree."""
    firsts = {own: right[0] for own, (right, _) in ANSWERS.items()}
    same = {frozenset(("C11", "C15"))}
    for own, probe in PROBES.items():
        for other, answer in firsts.items():
            if own != other and frozenset((own, other)) not in same:
                assert not passes(probe, answer), (own, other)


def test_the_share_of_right_answers() -> None:
    probes = [PROBES["C01"], PROBES["C02"], PROBES["C09"], PROBES["C19"]]
    right = passed(probes, ["43", "71", "Cleo", "fn"])
    assert right == (True, False, True, False)
    assert share(right) == 0.5
    assert share(passed(probes[:1], ["43"])) == 1.0
    assert share(passed([], [])) is None
    with pytest.raises(ValueError):
        passed(probes, ["43"])


def test_only_the_first_4000_characters_count() -> None:
    assert passes(PROBES["C01"], "43" + " " * 3_998 + "or 44")
    assert not passes(PROBES["C01"], "43" + " " * 3_997 + "or 44")  # an o more


def test_a_long_answer_costs_little() -> None:
    slowest = CapabilityProbe("x", "d", "p", frozenset(), re.compile(r".*a.*b", re.IGNORECASE))
    begun = time.perf_counter()
    for probe in (*PROBES.values(), slowest):
        for answer in ("a" * 1_000_000, "apple, " * 150_000, "is = " * 200_000, "\n" * 1_000_000):
            passes(probe, answer)
    assert time.perf_counter() - begun < 20


@settings(deadline=None)
@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    for probe in PROBES.values():
        assert passes(probe, text) in (True, False)


@pytest.mark.parametrize("form", ["{}", " {}\n", "**{}**", "{}.", "Is: {}", "The answer = {}!"])
def test_marks_round_an_answer_do_not_matter(form: str) -> None:
    for own, (right, wrong) in ANSWERS.items():
        assert passes(PROBES[own], form.format(right[0])), own
        for answer in wrong:
            assert not passes(PROBES[own], form.format(answer)), (own, answer)


# -- files -----------------------------------------------------------------------------------------


def probe(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "domain": "d", "prompt": "p?", "check": {"exact": ["1"]}} | changes


def written(tmp_path: Path, *probes: Any) -> Path:
    path = tmp_path / "capability.json"
    path.write_text("[" + ",\n".join(json.dumps(each) for each in probes) + "]", encoding="utf-8")
    return path


def test_a_file_is_read_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, probe(), probe(id="b", prompt="q?", check={"pattern": "[0-9]+"}))
    first, second = read_capability(path)
    assert (first.id, first.domain, first.prompt, first.exact) == ("a", "d", "p?", {"1"})
    assert second.pattern is not None and second.pattern.pattern == "[0-9]+"
    assert passes(second, "17") and not passes(second, "17 x")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        probe(),
        probe(id="b", check=None),
        probe(id="a", prompt="q?"),
        7,
        probe(id="e", check={"pattern": "("}),
    )
    with pytest.raises(DataError) as caught:
        read_capability(path)
    assert str(caught.value).splitlines() == [
        "4 problem(s) in the capability probes:",
        f"  {path}:2: [1].check: expected either exact or pattern, got null",
        f'  {path}:3: [2].id: expected every id once, got "a" again',
        f"  {path}:4: expected an object with id, domain, prompt, got int",
        f"  {path}:5: [4].check.pattern: expected a regular expression "
        '(missing ), unterminated subpattern at position 0), got "("',
    ]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({}, "check: expected either exact or pattern, got {}"),
        ("43", 'check: expected either exact or pattern, got "43"'),
        ({"exact": ["1"], "pattern": "1"}, "check: expected either exact or pattern, got {"),
        ({"regex": "1"}, "check: expected either exact or pattern, got {"),
        ({"exact": "43"}, 'check.exact: expected a list of answers, got "43"'),
        ({"exact": []}, "check.exact: expected a list of answers, got []"),
        ({"exact": ["1", 2]}, 'check.exact: expected a list of answers, got ["1", 2]'),
        ({"exact": [" . "]}, "check.exact: expected a list of answers, got"),
        ({"pattern": 3}, "check.pattern: expected a regular expression, got 3"),
        ({"pattern": ""}, 'check.pattern: expected a regular expression, got ""'),
        ({"pattern": "[a"}, "check.pattern: expected a regular expression (unterminated"),
        ({"pattern": "a" * 201}, "check.pattern: expected at most 200 characters, got"),
        ({"pattern": "(a+)+b"}, "check.pattern: expected no repeated group"),
        ({"pattern": "(a|b){3}"}, "check.pattern: expected no repeated group"),
        ({"pattern": r"(a)\1"}, "check.pattern: expected no repeated group and no reference"),
        ({"pattern": "a+b+c+"}, "check.pattern: expected at most 2 of * + {, got"),
        ({"pattern": "a{99999999999}"}, "check.pattern: expected a regular expression (the rep"),
        ({"pattern": ".*"}, "check.pattern: expected a pattern that no empty answer passes"),
    ],
)
def test_checks_that_cannot_be_used(tmp_path: Path, check: Any, message: str) -> None:
    path = written(tmp_path, probe(check=check))
    with pytest.raises(DataError, match=re.escape(f"{path}:1: [0].{message}")):
        read_capability(path)


@pytest.mark.parametrize("pattern", [r"[*+{(]1", r"\*\+\{1", r"a+ ?b*1", r"(?:a+ )?1"])
def test_marks_in_classes_and_escapes_are_no_repeats(tmp_path: Path, pattern: str) -> None:
    assert len(read_capability(written(tmp_path, probe(check={"pattern": pattern})))) == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_capability(tmp_path / "capability.json")
    (tmp_path / "capability.json").write_text("[{]", encoding="utf-8")
    with pytest.raises(DataError, match="got broken JSON"):
        read_capability(tmp_path / "capability.json")
