"""Seeds × domains × regions × voices → a balanced set of prompts that differ.

A seed becomes several prompts by the voices it is asked in, and one without a region also by the
settings of the regions. Both are frames around its own words, and that is all that can be had
honestly without writing more seeds: a place's name put into somebody else's story makes a story
that nobody there would tell. What is still the same prompt is found by comparing: near-duplicates
are left out, and no seed becomes more prompts than its source allows.

Every choice is a hash of the recipe's seed and what is chosen between, so a set depends on nothing
but recipe and seeds, and a seed added later changes no other's words or ids.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, listing
from ..files import write_atomic
from ..hashing import derive_seed
from .check import check_prompts, compared_text
from .conversation import Conversation, Message
from .corpus import Corpus, Item, KernelText, Place, Problem, find_corpus, read_prompts
from .jsonl import Row
from .near import Measure, near_pairs, sketch
from .recipe import PROMPT, Recipe

Cell = tuple[str, str]  # domain, region


@dataclass(frozen=True)
class Coverage:
    """One domain in one region.

    Attributes:
        wanted: prompts that an even share of the size gives it; they add up to the size.
        seeds: prompts of the sources that belong here; a seed that may be asked anywhere is none.
        reached: prompts of the set.
    """

    domain: str
    region: str
    wanted: int
    seeds: int
    reached: int

    @property
    def thin(self) -> bool:
        return self.reached < self.wanted


@dataclass(frozen=True)
class Expansion:
    """A set of prompts, and what became of the seeds.

    Attributes:
        prompts: each first part of them is as balanced as the whole.
        near: prompts that were left out as near-duplicates of another.
        refused: prompts that `lem data check` would refuse, with its words, by id.
        unplaced: seeds whose domain or region the recipe has not.
    """

    wanted: int
    prompts: tuple[Item, ...]
    cells: tuple[Coverage, ...]
    near: int
    refused: tuple[tuple[str, str], ...]
    unplaced: int

    @property
    def missing(self) -> int:
        return self.wanted - len(self.prompts)

    @property
    def thin(self) -> tuple[Coverage, ...]:
        """The thinnest first."""
        return tuple(sorted((c for c in self.cells if c.thin), key=lambda c: c.reached - c.wanted))


@dataclass(frozen=True)
class _Prompt:
    """A seed as it would be asked in one cell; `rank` counts the seed's own prompts."""

    seed: Item
    most: int
    cell: Cell
    rank: int
    item: Item

    @property
    def id(self) -> str:
        return self.item.row.own


def expand(recipe: Recipe) -> Expansion:
    """Make the set of prompts that the recipe describes, or as much of it as the seeds allow.

    Raises:
        DataError: sources that hold something else than prompts, or one id twice, or files of
            `against` that do not pass the check themselves; all are named.
    """
    seeds = list(_seeds(recipe))
    made = [prompt for seed, most in seeds for prompt in _asked(recipe, seed, most)]
    made.sort(key=lambda prompt: (prompt.rank, derive_seed(recipe.seed, "order", prompt.id)))
    against = find_corpus(recipe.against) if recipe.against else _NOTHING
    refused = _refused(made, against, None)
    usable = [prompt for prompt in made if prompt.id not in refused]
    different = _different(usable, recipe.similarity)
    taken = _balanced(recipe, _at_most(different))
    # A set this small is compared more closely than all that could be in it: to the end.
    while more := _refused(taken, against, recipe.similarity):
        refused |= {key: why for key, why in more.items() if "near-duplicate" not in why}
        different = [prompt for prompt in different if prompt.id not in more]
        taken = _balanced(recipe, _at_most(different))
    return Expansion(
        recipe.size,
        tuple(prompt.item for prompt in taken),
        tuple(_coverage(recipe, [seed for seed, _ in seeds], taken)),
        len(made) - len(different) - len(refused),
        tuple(sorted(refused.items())),
        sum(not any(_cells(recipe, seed)) for seed, _ in seeds),
    )


def refuse_existing(path: Path) -> None:
    """Raise DataError where something stands already."""
    if path.exists():
        raise DataError(f"{path}: there already; nothing is overwritten")


def write_prompts(path: Path, prompts: Iterable[Item]) -> None:
    """The prompts as a file of seeds; DataError where something stands there already."""
    refuse_existing(path)
    lines = [json.dumps(_as_json(prompt), ensure_ascii=False) for prompt in prompts]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "[\n{}\n]\n".format(",\n".join(lines)).encode())


_NOTHING = Corpus((), (), (), KernelText((), ()), ())


def _as_json(prompt: Item) -> dict[str, str]:
    row = prompt.row
    values = {
        "id": row.own,
        "domain": row.domain,
        "probe": row.probe,
        "prompt": prompt.contents[0],
        "generated_by": prompt.generated_by,
    }
    return {key: value for key, value in values.items() if value is not None}


def _seeds(recipe: Recipe) -> Iterator[tuple[Item, int]]:
    """The sources' prompts, and how many prompts each may become."""
    problems: list[str] = []
    places: dict[str, Place] = {}
    for source in recipe.sources:
        for item in read_prompts(source.file):
            if isinstance(item, Problem):
                problems.append(str(item))
            elif item.row.own in places:
                problems.append(f"{item.place}: id {item.row.own} stands at {places[item.row.own]}")
            else:
                places[item.row.own] = item.place
                yield item, source.most
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the seeds:", problems))


def _cells(recipe: Recipe, seed: Item) -> list[Cell]:
    """Where a seed may be asked."""
    domain, slash, region = (seed.row.domain or "").partition("/")
    if domain not in recipe.domains:
        return []
    if slash:
        return [(domain, region)] if region in recipe.regions else []
    return [(domain, each) for each, settings in recipe.regions.items() if settings]


def _asked(recipe: Recipe, seed: Item, most: int) -> Iterator[_Prompt]:
    """All prompts that a seed could become, those to be taken first at the head.

    In its own region one in every voice; else one in every region, the voices in turn.
    """

    def drawn(options: Iterable[str], *what: str) -> list[str]:
        return sorted(options, key=lambda o: derive_seed(recipe.seed, seed.row.own, *what, o))

    cells = _cells(recipe, seed)
    voices = drawn(recipe.voices, "voice")
    if "/" in (seed.row.domain or ""):
        ways = [(cell, "", voice) for cell in cells for voice in voices]
    else:
        domain = seed.row.domain or ""
        ways = [
            ((domain, region), drawn(recipe.regions[region], "setting")[0], voices[i % len(voices)])
            for i, region in enumerate(drawn((region for _, region in cells), "region"))
        ]
    for rank, (cell, setting, voice) in enumerate(ways):
        wording = drawn(recipe.voices[voice], "wording", voice)[0]
        text = wording.replace(PROMPT, " ".join(filter(None, (setting, seed.contents[0]))))
        own = "/".join(filter(None, (seed.row.own, cell[1] if setting else "", voice)))
        yield _Prompt(seed, most, cell, rank, _item(own, cell, text, seed))


def _item(own: str, cell: Cell, text: str, seed: Item) -> Item:
    conversation = Conversation(own, (Message("user", text),), own)
    row = Row(conversation, "/".join(cell), seed.row.group, own)
    return Item(row, seed.place, None, seed.generated_by)


def _refused(
    prompts: Sequence[_Prompt], against: Corpus, similarity: float | None
) -> dict[str, str]:
    """Prompts that do not pass the check, by id, with the first thing that is wrong."""
    ids = {Place(Path(prompt.id), 0, -n): prompt.id for n, prompt in enumerate(prompts, start=1)}
    items = [replace(each.item, place=place) for each, place in zip(prompts, ids, strict=True)]
    problems = check_prompts(items, against, similarity)
    return {ids[problem.place]: problem.message for problem in reversed(problems)}


def _different(prompts: Sequence[_Prompt], least: float) -> list[_Prompt]:
    """The prompts without near-duplicates of an earlier one that stays."""
    if len(prompts) < 2:
        return list(prompts)
    texts = [compared_text(prompt.item) for prompt in prompts]
    alike: defaultdict[int, list[int]] = defaultdict(list)
    sketches = np.stack([sketch(text) for text in texts])
    for i, j, _ in near_pairs(sketches, least, Measure(texts.__getitem__)):
        alike[j].append(i)
    stays: list[bool] = []
    for number in range(len(prompts)):
        stays.append(not any(stays[earlier] for earlier in alike[number]))
    return [prompt for prompt, stay in zip(prompts, stays, strict=True) if stay]


def _at_most(prompts: Iterable[_Prompt]) -> Iterator[_Prompt]:
    """The prompts, of each seed no more than its source allows."""
    uses: Counter[str] = Counter()
    for prompt in prompts:
        own = prompt.seed.row.own
        uses[own] += 1
        if uses[own] <= prompt.most:
            yield prompt


def _balanced(recipe: Recipe, prompts: Iterable[_Prompt]) -> list[_Prompt]:
    """As many as are wanted, one from each cell in turn; full cells make up for thin ones."""
    queues: defaultdict[Cell, list[_Prompt]] = defaultdict(list)
    for prompt in prompts:
        queues[prompt.cell].append(prompt)
    order = _cell_order(recipe)
    depth = max(map(len, queues.values()), default=0)
    rounds = (queues[cell][n] for n in range(depth) for cell in order if n < len(queues[cell]))
    return [prompt for prompt, _ in zip(rounds, range(recipe.size), strict=False)]


def _cell_order(recipe: Recipe) -> list[Cell]:
    cells = [(domain, region) for region in recipe.regions for domain in recipe.domains]
    return sorted(cells, key=lambda cell: derive_seed(recipe.seed, "cell", *cell))


def _coverage(
    recipe: Recipe, seeds: Sequence[Item], taken: Sequence[_Prompt]
) -> Iterator[Coverage]:
    """Every cell, by region and domain as the recipe has them."""
    order = _cell_order(recipe)
    share, rest = divmod(recipe.size, len(order))
    wanted = {cell: share + (number < rest) for number, cell in enumerate(order)}
    own = Counter((seed.row.domain or "") for seed in seeds)
    reached = Counter(prompt.cell for prompt in taken)
    for region in recipe.regions:
        for domain in recipe.domains:
            cell = (domain, region)
            yield Coverage(*cell, wanted[cell], own["/".join(cell)], reached[cell])
