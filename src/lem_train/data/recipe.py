"""A recipe: which seeds, domains, regions and voices make a set of prompts, and how large it is.

Its file is read as a curriculum is: plain YAML, unknown keys are errors, every error at once with
its line, relative paths from the recipe's own folder and within its project.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from ..curriculum.absent import absent
from ..curriculum.outside import outside, project_folder
from ..curriculum.problems import Problem, failure, shown
from ..curriculum.schema import Frozen, LocalPath
from ..curriculum.tree import Kind, Node, plain, read_tree
from ..curriculum.wording import worded

PROMPT = "{prompt}"
_KIND = Kind("recipe", "seeds/golden.recipe.yaml", "name, sources, domains, regions and voices")

Line = Annotated[str, Field(min_length=1)]
Wordings = Annotated[tuple[Line, ...], Field(min_length=1, strict=False)]


class SourceConfig(Frozen):
    """A file of prompts."""

    file: LocalPath
    """A JSON array of prompts; relative to the recipe."""
    most: int = Field(default=1, ge=1)
    """How many prompts one of them may become."""


class Recipe(Frozen):
    """How a set of prompts is made of seeds."""

    name: str = Field(min_length=1)
    """What the set is called."""
    size: int = Field(default=13_479, ge=1)
    """Prompts wanted; the default is the published golden set's."""
    seed: int = Field(default=0, ge=0)
    """What is chosen where there is a choice follows from it."""
    similarity: float = Field(default=0.7, ge=0.6, le=1)
    """Share of eight-character runs from which two prompts are near-duplicates; one is left out."""
    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1, strict=False)]
    """The seeds. One whose domain is `domain/region` belongs there; one with a domain alone may be
    asked in every region that has settings."""
    domains: Annotated[tuple[Line, ...], Field(min_length=1, strict=False)]
    """What the prompts are about; with the regions they make the cells of the set."""
    regions: Annotated[
        dict[Line, Annotated[tuple[Line, ...], Field(strict=False)]], Field(min_length=1)
    ]
    """Where they are asked, each with its settings: who asks, from which place. A setting goes
    before a seed that names no region."""
    voices: Annotated[dict[str, Wordings], Field(min_length=1)]
    """How they are asked, each with its wordings: the prompt stands where they say {prompt}."""
    against: Annotated[tuple[LocalPath, ...], Field(strict=False)] = ()
    """Files and folders that no prompt may come near: what models are judged by, the kernel,
    lessons that are answered already."""

    @model_validator(mode="after")
    def _frames(self) -> Self:
        for voice, wordings in self.voices.items():
            if not voice.isprintable() or not voice.strip():
                raise ValueError(f"expected a voice's name on one line, got {shown(voice)}")
            for wording in wordings:
                if wording.count(PROMPT) != 1:
                    raise ValueError(
                        f"voices.{voice}: expected {PROMPT} once in each wording, got "
                        f"{shown(wording)}"
                    )
        for region in self.regions:
            if not region.isprintable():
                raise ValueError(f"expected a region's name on one line, got {shown(region)}")
        if len(set(self.domains)) < len(self.domains):
            raise ValueError("domains: expected every domain once")
        if wrong := next((domain for domain in self.domains if "/" in domain), None):
            raise ValueError(f"domains: expected a domain without a /, got {shown(wrong)}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and validate the recipe at `path`; the files that it names must be there.

    Raises:
        ConfigError: with a title and one line for each problem, in file order.
    """
    tree, problems = read_tree(path, _KIND)
    try:
        recipe = Recipe.model_validate(plain(tree), context={"root": path.parent})
    except ValidationError as error:
        raise failure(path, [*problems, *worded(tree, error, Recipe)]) from None
    if problems := [*problems, *_paths(recipe, tree, path)]:
        raise failure(path, problems)
    return recipe


def _paths(recipe: Recipe, tree: Node, path: Path) -> Iterator[Problem]:
    """Paths that leave the project, and files that are not there."""
    project = project_folder(path)
    for number, source in enumerate(recipe.sources):
        node = _at(tree, "sources", number, "file")
        yield from outside(node, [source.file], project)
        yield from absent(node, source.file, "a file")
    for number, file in enumerate(recipe.against):
        node = _at(tree, "against", number)
        yield from outside(node, [file], project)
        yield from absent(node, file, "a folder" if file.is_dir() else "a file")


def _at(tree: Node, *loc: str | int) -> Node:
    """The node below these keys, which a valid recipe has."""
    for step in loc:
        tree = tree.child(step) or tree
    return tree
