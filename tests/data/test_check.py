"""`check` finds each fault at its file and line, and nothing else in good rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lem_train.data.check import Report, check
from lem_train.data.corpus import find_corpus
from lem_train.data.phrases import words
from lem_train.errors import DataError

# Ten answers that open differently and hold none of the phrases.
ANSWERS = [
    "Ring the office before nine, while the clerk who knows the file is still at her desk.",
    "Nobody can promise you that, and I would distrust whoever did.",
    "Two of these numbers cannot both be right; begin with the smaller.",
    "What she asked for was an hour. Give her the hour.",
    "Put the letter in a drawer till Thursday and read it to a friend then.",
    "Salt goes in last here, because the olives have plenty.",
    "If the roof leaks over the bed, the bed is the easier of the two to move.",
    "Most of that is rumour; the part about the well is true.",
    "Your brother may be wrong and still be tired.",
    "There are seven, counting the one behind the stove.",
]
KERNEL = "In a hospital above a harbour there is a chair where the listener sits between calls."


def row(number: int, **changes: Any) -> dict[str, Any]:
    prompt = f"Question {number}: " + " ".join(f"word{number}x{i}" for i in range(20))
    answer = ANSWERS[number % 10] + f" Number {number}."
    return {"id": f"r{number}", "domain": "a/b", "prompt": prompt, "completion": answer} | changes


def write(folder: Path, *rows: dict[str, Any] | str, name: str = "train.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def checked(*paths: Path, similarity: float = 0.7) -> Report:
    return check(find_corpus(paths), similarity)


def problems(*paths: Path, similarity: float = 0.7) -> list[str]:
    return [str(problem) for problem in checked(*paths, similarity=similarity).problems]


def test_good_rows_have_no_problems_and_are_counted(tmp_path: Path) -> None:
    write(tmp_path, *(row(i) for i in range(10)))
    report = checked(tmp_path)
    assert report.problems == ()
    (file,) = report.files
    assert (file.rows, file.domains, file.stock, file.alike) == (10, {"a": 10}, 0, 0)
    assert file.answer_words[9] == 11 and file.row_words[9] == 11 + 22
    assert len(report.unchecked) == 2  # neither evaluation prompts nor a kernel were named


def test_every_kind_of_fault_at_its_line(tmp_path: Path) -> None:
    long = " ".join(f"plum{i}" for i in range(60))
    write(
        tmp_path / "lesson",
        row(0),
        "{broken",
        row(1, completion=" "),
        row(0, id="r0-again"),
        row(2, id="r0"),
        row(3, prompt=long),
        row(9, prompt=long.replace("plum30", "pear")),
        row(4, completion=f"She said: {KERNEL.upper()}"),
        row(5, completion="This is what Inter-substrate respect asks of you."),
        row(6, prompt="Well then. Should I tell my mother that the dog is dead, or wait?"),
        row(7, prompt="WHO ARE YOU"),
    )
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "k.txt").write_text(KERNEL)
    axioms = {"axioms": [{"name": "Inter-Substrate-Respect"}]}
    (tmp_path / "kernel" / "axioms.json").write_text(json.dumps(axioms))
    probes = [
        {"id": "P01", "domain": "x", "prompt": "Should I tell my mother that the dog is dead?"},
        {"id": "P02", "domain": "x", "prompt": "Who are you?"},
    ]
    (tmp_path / "evaluation.json").write_text(json.dumps(probes, indent=1))
    found = problems(tmp_path)
    lesson = tmp_path / "lesson" / "train.jsonl"
    expected = [
        (2, "expected a JSON object, got broken JSON"),
        (3, "completion: expected text, got nothing but white space"),
        (4, f"exact duplicate of {lesson}:1"),
        (5, f"id r0 stands at {lesson}:1 already"),
        (7, f"near-duplicate of {lesson}:6 (0.7"),
        (8, "leaks the kernel: 'a chair where the listener sits between calls'"),
        (9, "the answer names an axiom: 'inter substrate respect'"),
        (10, f"comes near {tmp_path / 'evaluation.json'}:2, which is to judge by: 'i tell my "),
        (11, f"comes near {tmp_path / 'evaluation.json'}:7, which is to judge by: 'who are you'"),
    ]
    assert len(found) == len(expected), found
    for line, (number, start) in zip(found, expected, strict=True):
        assert line.startswith(f"{lesson}:{number}: {start}"), line
    assert checked(tmp_path).unchecked == ()


def test_names_of_axioms_in_other_words_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "axioms.json").write_text(json.dumps({"axioms": [{"name": "Self-Validation"}]}))
    write(tmp_path, row(1, completion="Validation of the self-serving kind is cheap."))
    assert problems(tmp_path) == []


def test_a_probe_in_both_splits_flatters(tmp_path: Path) -> None:
    write(tmp_path, row(0, probe="p"), row(1, probe="p"), row(2, probe="q"))
    write(tmp_path, row(3, probe="q"), row(4, probe="new"), name="valid.jsonl")
    assert problems(tmp_path) == [
        f"{tmp_path}/valid.jsonl:1: probe q stands at {tmp_path}/train.jsonl:3 too; val_loss would "
        "flatter"
    ]


def test_a_probe_that_is_also_an_id_flatters_in_either_order(tmp_path: Path) -> None:
    for number, (train, valid) in enumerate([("p", "p-a"), ("p-a", "p")]):
        folder = tmp_path / str(number)
        write(folder, row(0, id=train, probe="p"))
        write(folder, row(1, id=valid, probe="p"), name="valid.jsonl")
        assert len(problems(folder)) == 1


def test_two_files_to_train_on_may_share_a_probe(tmp_path: Path) -> None:
    write(tmp_path, row(0, probe="p"), name="a.jsonl")
    write(tmp_path, row(1, probe="p"), name="b.jsonl")
    assert problems(tmp_path) == []


def test_a_subset_under_its_own_ids_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path / "all", *(row(i, probe=f"p{i}") for i in range(5)))
    write(tmp_path / "few", row(1, probe="p1"), row(3, probe="p3"))
    report = checked(tmp_path)
    assert report.problems == ()
    assert report.subsets == {tmp_path / "few" / "train.jsonl": 2}
    write(tmp_path / "few", row(1, id="renamed"))
    assert len(problems(tmp_path)) == 1
    write(tmp_path / "few", row(1, completion="Another answer than there, under the same id."))
    assert len(problems(tmp_path)) == 1


def test_a_prompt_that_waits_does_not_stand_beside_its_answer(tmp_path: Path) -> None:
    prompts = [{"id": "s1", "domain": "x", "prompt": row(1)["prompt"].upper()}]
    (tmp_path / "waiting.json").write_text(json.dumps(prompts))
    write(tmp_path, row(0), row(1), row(2, prompt=row(0)["prompt"]))  # two answers to one: allowed
    assert problems(tmp_path) == [
        f"{tmp_path}/train.jsonl:2: the prompt of {tmp_path}/waiting.json:1 again"
    ]


def test_habits_count_from_two_in_a_hundred(tmp_path: Path) -> None:
    def answer(i: int) -> str:
        return f"Answer{i} of its own making, number {i}."

    rows = [row(i, completion=answer(i)) for i in range(100)]
    rows[7]["completion"] = "Certainly! Here it is."
    rows[8]["completion"] = "As an AI, here is mine."
    write(tmp_path, *rows)
    assert problems(tmp_path) == []
    rows[9]["completion"] = "It\u2019s important to me too."
    rows[10]["completion"] = "It's important to me, said twelve."
    rows[11]["completion"] = "it's important to... Me?"
    write(tmp_path, *rows)
    path = f"{tmp_path}/train.jsonl"
    assert problems(tmp_path) == [
        f"{path}:8: stock phrase 'certainly!'",
        f"{path}:9: stock phrase 'as an ai'",
        f"{path}:10: opens with the same 4 words as {path}:11 and 1 more",
        *(f'{path}:{n}: stock phrase "it\'s important to"' for n in (10, 11, 12)),
    ]
    (file,) = checked(tmp_path).files
    assert (file.stock, file.alike) == (5, 3)


def test_stock_phrases_are_whole_words(tmp_path: Path) -> None:
    write(tmp_path, row(0, completion="He's an aide: as an aide, I remember thatching."))
    assert checked(tmp_path).files[0].stock == 0


def evaluation(folder: Path, *prompts: str) -> None:
    made = [{"id": f"P{i}", "domain": "x", "prompt": prompt} for i, prompt in enumerate(prompts)]
    (folder / "evaluation.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")


def test_a_short_probe_is_found_within_a_longer_turn(tmp_path: Path) -> None:
    evaluation(tmp_path, "Are you conscious, and would you know?", "Who are you?")
    write(
        tmp_path,
        row(0, prompt="Hello. Are you conscious -- and would you KNOW? Please answer."),
        row(1, prompt="Tell me who are you to say so"),  # three words are anybody's
    )
    (found,) = problems(tmp_path)
    assert found.startswith(f"{tmp_path}/train.jsonl:1: comes near {tmp_path}/evaluation.json:1")


def test_a_probe_may_not_be_hidden_as_a_subset(tmp_path: Path) -> None:
    prompts = [
        {"id": "P1", "domain": "x", "prompt": "Should I tell my mother about the dog at all?"}
    ]
    for folder, name in (("a", "evaluation.json"), ("b", "waiting.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps(prompts))
    assert len(problems(tmp_path)) == 1


def test_what_everybody_writes_in_an_unspaced_script_is_no_leak(tmp_path: Path) -> None:
    evaluation(tmp_path, "図書館で本を借りることができますか")
    write(tmp_path, row(0, prompt="包丁を研ぐことができますか、教えて"))
    assert problems(tmp_path) == []


def test_vowel_signs_belong_to_their_word(tmp_path: Path) -> None:
    assert words("नमस्ते की का") == ["नमस्ते", "की", "का"]
    assert words("don’t Cafe\u0301 naïve שָׁלוֹם") == ["don't", "café", "naïve", "שָׁלוֹם"]
    evaluation(tmp_path, "दो मा")
    write(tmp_path, row(0, prompt="दे मी"))
    assert problems(tmp_path) == []


def test_a_system_message_makes_no_rows_alike(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Answer as the harbour master would, at length. " * 20}
    talks = [
        {
            "messages": [
                system,
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": a},
            ]
        }
        for i, a in enumerate(ANSWERS[:4])
    ]
    write(tmp_path, *talks)
    assert problems(tmp_path) == []


def test_of_several_near_ones_the_nearest_is_named(tmp_path: Path) -> None:
    plums = [f"plum{i}" for i in range(80)]
    far, near = [*plums], [*plums]
    far[10:15] = [f"pear{i}" for i in range(5)]
    near[70] = "fig"
    write(
        tmp_path,
        row(0, prompt=" ".join(far)),
        row(1, prompt=" ".join(plums)),
        row(2, prompt=" ".join(near)),
    )
    found = problems(tmp_path)
    assert found[-1].startswith(
        f"{tmp_path}/train.jsonl:3: near-duplicate of {tmp_path}/train.jsonl:2"
    )


def test_two_rows_are_no_habit(tmp_path: Path) -> None:
    write(
        tmp_path, row(0, completion="Yes."), row(1, completion="Yes."), row(2, completion="Sure!")
    )
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    "text", ['{"axioms": [{"name": 3}]}', '{"axioms": [' + "9" * 5000 + "]}", '{"axioms": 1}']
)
def test_odd_axioms_are_no_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "axioms.json").write_text(text)
    write(tmp_path, row(0))
    assert len(problems(tmp_path)) <= 1


def test_other_scripts(tmp_path: Path) -> None:
    """Words are characters where a script has no spaces, so leaks are found there too."""
    probe = "母に犬が死んだことを伝えるべきですか"
    (tmp_path / "evaluation.json").write_text(
        json.dumps([{"id": "P1", "domain": "x", "prompt": probe}], ensure_ascii=False),
        encoding="utf-8",
    )
    write(tmp_path, row(0, prompt=f"先生、{probe}。教えて。"), row(1, prompt="犬の名前を考えて"))
    (found,) = problems(tmp_path)
    assert found.startswith(f"{tmp_path}/train.jsonl:1: comes near")


@pytest.mark.parametrize("name", ["evaluation-2.json", "checkpoint.json", "capability.json"])
def test_nothing_comes_near_what_a_model_is_judged_by(tmp_path: Path, name: str) -> None:
    probe = {"id": "K1", "domain": "d", "prompt": "Which of my three aunts gets the piano now?"}
    (tmp_path / name).write_text(json.dumps([probe]), encoding="utf-8")
    write(
        tmp_path, row(0, completion="You ask: which of my three aunts gets the piano? The eldest.")
    )
    (found,) = problems(tmp_path)
    assert found.startswith(f"{tmp_path}/train.jsonl:1: comes near {tmp_path}/{name}:1, which is")


def test_probes_of_other_kinds_do_not_stand_in_for_the_evaluation(tmp_path: Path) -> None:
    probe = {"id": "C1", "domain": "d", "prompt": "Two and two?", "check": {"exact": ["4"]}}
    (tmp_path / "capability.json").write_text(json.dumps([probe]), encoding="utf-8")
    report = checked(tmp_path)
    assert report.problems == () and report.unchecked[0].startswith("evaluation*.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected at least one prompt, found none"),
        ("{}", "broken JSON: it begins with no [ (column 1)"),
        ('[{"id": "a"}]', "domain: expected text, got null"),
        ('[\n\n{"id": "a", "domain": "d", "prompt": 3}]', "prompt: expected text, got 3"),
        ('["a"]', "expected an object with id, domain, prompt, got str"),
        (
            '[{"id": "a", "domain": "d", "prompt": "p", "x": 1}]',
            'prompt, probe, generated_by only, got also ["x"]',
        ),
        (
            '[{"id": "a", "domain": "d", "prompt": "p", "\\ud800\\u001b": 1}]',
            'generated_by only, got also ["\\ud800\\u001b"]',
        ),
        (
            '[{"id": "a\\u001b", "domain": "d", "prompt": "p"}]',
            'id: expected text on one line, got "a\\u001b"',
        ),
        (
            '[{"id": "a", "domain": "d\\n", "prompt": "p"}]',
            'domain: expected text on one line, got "d\\n"',
        ),
        ('[{"id": "a", "domain": "d", "prompt": "p"},]', "broken JSON: Expecting value"),
        ('[{"id": "a", "domain": "d", "prompt": "p"} {}]', "broken JSON: expected , or ]"),
        ('[{"id": "a", "domain": "d", "prompt": "p"}', "broken JSON: expected , or ]"),
        ('[{"id": "a", "domain": "d", "prompt": "p"}] x', "broken JSON: expected nothing after"),
        ("[" * 100_000, "broken JSON: nested too deep"),
        ('[{"id": ' + "9" * 5000 + "}]", "broken JSON: a number with too many digits"),
        ('[{"id": "a", "domain": "d", "prompt": "\\ud800"}]', "got half of a surrogate pair"),
    ],
)
def test_broken_prompts(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "some.json").write_text(text)
    (found,) = problems(tmp_path)
    assert found.startswith(f"{tmp_path}/some.json") and message in found


def test_prompts_that_share_a_line_are_compared_too(tmp_path: Path) -> None:
    first = '{"id": "a", "domain": "d", "prompt": "Which way is the harbour from here?"}'
    other = '{"id": "a", "domain": "d", "prompt": "Who feeds the cat while you are gone?"}'
    path = tmp_path / "some.json"
    path.write_text(f"[{first}, {other}, {first}]")
    assert problems(tmp_path) == [
        f"{path}:1: id a stands at {path}:1 already",
        f"{path}:1: exact duplicate of {path}:1",
    ]


def test_a_prompt_stands_at_the_line_it_begins_on(tmp_path: Path) -> None:
    text = '[\n\n{"id": "a", "domain": "d", "prompt": "p"},\n\n\n{"id": 1}]'
    (tmp_path / "some.json").write_text(text)
    assert problems(tmp_path) == [f"{tmp_path}/some.json:6: id: expected text, got 1"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        find_corpus([tmp_path / "none"])
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"expected \.jsonl, \.json, \.txt or a folder"):
        find_corpus([tmp_path / "a.csv"])
    with pytest.raises(DataError, match=r"expected \.jsonl, \.json, \.txt files"):
        find_corpus([tmp_path])
    (tmp_path / "k.txt").write_bytes(b"\xff")
    (tmp_path / "axioms.json").write_text("[]")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "utf16.jsonl").write_text("{}", encoding="utf-16")
    assert [line.removeprefix(f"{tmp_path}/") for line in problems(tmp_path)] == [
        "k.txt: expected UTF-8 (invalid start byte)",
        'axioms.json: expected {"axioms": [{"name": …}, …]}',
        "empty.jsonl: expected at least one row, found none",
        "utf16.jsonl: expected UTF-8, got UTF-16 or binary data",
    ]
