"""Seeds become more prompts, never the same one: balanced, repeatable, checked like the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lem_train.cli.main import app
from lem_train.data.check import check
from lem_train.data.corpus import find_corpus
from lem_train.data.expand import Expansion, expand, write_prompts
from lem_train.data.near import normalised, similarity
from lem_train.data.recipe import load_recipe
from lem_train.errors import ConfigError, DataError
from lem_train.hashing import sha256_bytes

ROOT = Path(__file__).parents[2]
VOICES = {
    "plain": ["{prompt}"],
    "read": ["{prompt} I shall read your answer to my brother, who will look for its weak place."],
    "short": [
        "There is a minute before the bus goes, so let me have the thing that counts. {prompt}",
        "{prompt} My battery is nearly gone and I can only open a single message tonight.",
    ],
}


def words(key: str, count: int) -> str:
    """Words that no other key has."""
    return " ".join(sha256_bytes(f"{key}{i}".encode())[: 3 + i % 5] for i in range(count))


def seed(own: str, domain: str, **more: Any) -> dict[str, Any]:
    return {"id": own, "domain": domain, "prompt": words(own, 9), **more}


SEEDS = [
    seed(f"{domain}-{region}-{n}", f"{domain}/{region}")
    for domain in ("work", "home")
    for region in ("North", "South")
    for n in range(4)
]


def project(folder: Path, seeds: Sequence[Mapping[str, Any]] = SEEDS, **changes: Any) -> Path:
    """A recipe with its seeds; a source's own keys are given as `source`."""
    folder.mkdir(exist_ok=True)
    (folder / "seeds.json").write_text(json.dumps(seeds), encoding="utf-8")
    recipe: dict[str, Any] = {
        "name": "small",
        "size": 24,
        "sources": [{"file": "seeds.json", "most": 3} | changes.pop("source", {})],
        "domains": ["work", "home"],
        "regions": {"North": [], "South": []},
        "voices": VOICES,
    }
    path = folder / "small.recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes, sort_keys=False), encoding="utf-8")
    return path


def made(folder: Path, seeds: Sequence[Mapping[str, Any]] = SEEDS, **changes: Any) -> Expansion:
    return expand(load_recipe(project(folder, seeds, **changes)))


def texts(done: Expansion) -> dict[str, str]:
    return {prompt.row.own: prompt.contents[0] for prompt in done.prompts}


@pytest.mark.parametrize("size", [1, 7, 24, 48])
def test_every_first_part_of_a_set_is_balanced(tmp_path: Path, size: int) -> None:
    done = made(tmp_path, size=size)
    assert len(done.prompts) == size and not done.missing and not done.thin
    for part in range(1, size + 1):
        cells = Counter(prompt.row.domain for prompt in done.prompts[:part])
        assert len(cells) == min(part, 4)
        assert max(cells.values()) - min(cells.values()) <= 1
    assert sum(cell.wanted for cell in done.cells) == size


def test_a_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    small, large = made(tmp_path, size=13), made(tmp_path, size=40)
    assert large.prompts[:13] == small.prompts


def test_every_seed_is_asked_once_before_any_is_asked_again(tmp_path: Path) -> None:
    done = made(tmp_path, size=16)
    assert sorted(prompt.row.probe or "" for prompt in done.prompts) == sorted(
        each["id"] for each in SEEDS
    )


def test_other_seeds_change_neither_ids_nor_words(tmp_path: Path) -> None:
    before = texts(made(tmp_path / "a", size=48))
    more = [*SEEDS, *(seed(f"new-{n}", "work/North") for n in range(5))]
    after = texts(made(tmp_path / "b", list(reversed(more)), size=63))
    assert before.items() <= after.items() and len(after) == 63


def test_another_seed_of_the_recipe_chooses_otherwise(tmp_path: Path) -> None:
    one, other = (texts(made(tmp_path, size=16, seed=number)) for number in (0, 1))
    assert one.keys() != other.keys()
    assert one == texts(made(tmp_path, size=16, seed=0))


def test_no_seed_becomes_more_prompts_than_its_source_allows(tmp_path: Path) -> None:
    done = made(tmp_path, size=48, source={"most": 2})
    assert len(done.prompts) == 32 and done.missing == 16
    assert set(Counter(prompt.row.probe for prompt in done.prompts).values()) == {2}
    assert [cell.reached for cell in done.thin] == [8, 8, 8, 8]


def test_a_thin_cell_is_made_up_for_by_full_ones_and_named(tmp_path: Path) -> None:
    done = made(tmp_path, [each for each in SEEDS if "home-South" not in each["id"]][:9], size=24)
    reached = {(cell.domain, cell.region): cell.reached for cell in done.cells}
    assert reached.pop(("home", "North")) == 3 and reached.pop(("home", "South")) == 0
    assert sorted(reached.values()) == [10, 11]
    assert [(cell.domain, cell.region) for cell in done.thin] == [
        ("home", "South"),
        ("home", "North"),
    ]


def test_a_seed_without_a_region_is_asked_once_in_each_from_its_settings(tmp_path: Path) -> None:
    regions = {
        "North": ["I drive the night bus out of Bodø, alone mostly.", "We fish, off Vardø."],
        "South": ["There's a queue behind me at the mill in Kitwe."],
        "East": [],
    }
    done = made(tmp_path, [seed("any", "work")], regions=regions, size=9)
    assert {prompt.row.domain for prompt in done.prompts} == {"work/North", "work/South"}
    for prompt in done.prompts:
        region = (prompt.row.domain or "").partition("/")[2]
        assert any(
            f"{setting} {words('any', 9)}" in prompt.contents[0] for setting in regions[region]
        )
        assert prompt.row.own.startswith(f"any/{region}/")


def test_near_duplicates_are_left_out(tmp_path: Path) -> None:
    long = [seed("a", "work/North") | {"prompt": words("a", 200)}, seed("b", "work/North")]
    twin = seed("c", "work/South") | {"prompt": words("b", 9) + "!"}
    done = made(tmp_path, [*long, twin], size=9)
    found = [normalised(text) for text in texts(done).values()]
    assert all(similarity(x, y) < 0.7 for i, x in enumerate(found) for y in found[:i])
    assert sum(own.startswith("a/") for own in texts(done)) == 1  # a voice changes little of it
    assert done.near >= 3 and len(found) + done.near == 9


def test_a_model_s_prompt_is_marked_and_refused_like_any_other(tmp_path: Path) -> None:
    judged = [seed("P01", "work") | {"prompt": "When he asks for the third key I never know why."}]
    (tmp_path / "evaluation.json").write_text(json.dumps(judged), encoding="utf-8")
    copied = f"So: {judged[0]['prompt']} And {words('copied', 5)}"
    seeds = [
        seed("good", "work/North", generated_by="some-teacher"),
        seed("copied", "work/North", generated_by="some-teacher") | {"prompt": copied},
        seed("own", "home/North"),
    ]
    done = made(tmp_path, seeds, against=["evaluation.json"], size=9)
    assert {p.row.probe: p.generated_by for p in done.prompts} == {
        "good": "some-teacher",
        "own": None,
    }
    assert {own.partition("/")[0] for own, _ in done.refused} == {"copied"}
    assert "which is to judge by" in done.refused[0][1]


def test_what_is_written_passes_the_check_and_says_who_wrote_it(tmp_path: Path) -> None:
    seeds = [*SEEDS, seed("model", "work/North", generated_by="some-teacher")]
    done = made(tmp_path, seeds, size=51)
    out = tmp_path / "out" / "prompts.json"
    write_prompts(out, done.prompts)
    assert not check(find_corpus([out]), 0.7).problems
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == list(texts(done))
    assert {row["probe"] for row in rows if "generated_by" in row} == {"model"}
    with pytest.raises(DataError, match="nothing is overwritten"):
        write_prompts(out, done.prompts)


def test_faults_of_the_sources_and_of_what_is_held_against_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 problem\(s\)(.|\n)*id a stands(.|\n)*generated_by"):
        made(tmp_path, [*[seed("a", "work")] * 2, seed("b", "work", generated_by=3)])
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"held against:\n.*rows.jsonl:1"):
        made(tmp_path, against=["rows.jsonl"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"siez": 3}, r"siez: unknown key; did you mean size\? \(small.recipe.yaml:\d+\)"),
        ({"size": 0}, r"size: expected an integer ≥ 1, got 0 \(small.recipe.yaml:2\)"),
        ({"source": {"file": "no.json"}}, r"sources\[0\].file: expected a file, found nothing at"),
        ({"source": {"file": "/"}}, r"sources\[0\].file: expected a file, found a folder"),
        ({"against": ["../../x"]}, r"against\[0\]: expected a path inside the project"),
        ({"voices": {"plain": ["as it is"]}}, r"voices.plain: expected {prompt} once"),
        ({"voices": {"plain": [3]}}, r"voices.plain\[0\]: expected a non-empty string, got 3"),
        ({"voices": {}}, r"voices: expected a mapping with at least 1 entry, got {}"),
        ({"regions": {"North": "x"}}, r"regions.North: expected a list, got \"x\""),
        ({"domains": ["a/b"]}, r"expected a domain without a /, got \"a/b\""),
        ({"similarity": 0.5}, r"similarity: expected a number ≥ 0.6 and ≤ 1, got 0.5"),
    ],
)
def test_a_wrong_recipe_is_said_with_its_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(ConfigError, match=said):
        load_recipe(project(tmp_path / "seeds", **changes))


def test_the_command_says_what_is_thin_and_writes_only_what_was_wanted(tmp_path: Path) -> None:
    recipe, out = str(project(tmp_path, size=60)), tmp_path / "out.json"
    run = CliRunner().invoke
    short = run(app, ["data", "expand", recipe, "--out", str(out)])
    assert isinstance(short.exception, DataError) and not out.exists()
    assert "12 of 60 prompts are missing" in str(short.exception)
    assert "48 of 60 prompts" in short.stdout and "home/South: 12 of 15" in short.stdout
    fewer = run(app, ["data", "expand", recipe, "--out", str(out), "--allow-fewer", "--json"])
    told = json.loads(fewer.stdout)
    assert fewer.exit_code == 0 and (told["reached"], told["missing"]) == (48, 12)
    assert len(json.loads(out.read_text())) == 48
    assert sum(cell["reached"] for cell in told["cells"]) == 48


def test_the_shipped_recipe_names_what_is_there() -> None:
    recipe = load_recipe(ROOT / "seeds" / "golden.recipe.yaml")
    seeds = json.loads((ROOT / "seeds" / "golden.json").read_text(encoding="utf-8"))
    cells = {f"{domain}/{region}" for domain in recipe.domains for region in recipe.regions}
    assert {each["domain"] for each in seeds} == cells
    assert recipe.size == 13_479
