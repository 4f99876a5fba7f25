"""The model card: records → text. Writes nothing; every number comes from a record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from ..run.origin import LEAST_RETAINED, MOST_NOISE, Exported, Origin
from .approximation import approximation, changed_phases
from .card_front import as_scored, front_matter, licence_of
from .card_scores import accepted_lines, forgetting_section, gates_section, scores_section
from .card_tables import (
    cost_section,
    data_section,
    exports_section,
    lineage_section,
    receipts_section,
    settings_section,
)
from .markdown import argument, code, options, plain
from .numbers import counted
from .text import one_line

_PREFERRED = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")  # which file the commands name
_MOST_ACCEPTED = 20


def model_card(fused: Origin) -> str:
    """The README.md of a model folder."""
    phases, name = fused.phases, _name(fused)
    sections = [
        f"# {plain(name)}",
        " ".join(_approximation(fused)),
        _what(fused),
        *(f"> {line}" for line in _warnings(fused)),
        _use(fused),
        exports_section(fused.exports),
        scores_section(fused),
        forgetting_section(phases),
        gates_section(phases),
        lineage_section(phases),
        receipts_section(phases),
        settings_section(fused),
        data_section(phases),
        cost_section(phases),
        _limits(fused),
        _licence(fused.run.base),
        _again(fused),
        _citation(fused, name),
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"{front_matter(fused, name)}\n{body}\n"


def _name(fused: Origin) -> str:
    if fused.scales:
        return f"{fused.run.name} {changed_phases(fused.scales)}"
    complete = len(fused.phases) == len(fused.all_phases)
    return fused.run.name if complete else f"{fused.run.name} after {fused.phases[-1].name}"


def _approximation(fused: Origin) -> tuple[str, ...]:
    """Before any number: what was trained, and scored, are other weights."""
    if not fused.scales:
        return ()
    first, rest = approximation(fused)
    return f"**{first}**", rest


def _what(fused: Origin) -> str:
    """What it is, and what of the teaching stands in the weights."""
    rounded = f"{fused.dtype}{f', then packed to {fused.bits} bits' if fused.bits else ''}"
    others = any(export.format != "mlx" for export in fused.exports)
    subject = "The files below are made of" if others else "These weights are"
    where = "the weights that the files are made of" if others else "these weights"
    text = (
        f"{plain(fused.run.name)}, trained in {counted(len(fused.phases), 'phase')} with lem "
        f"{plain(fused.phases[-1].versions.lem_train)}: a language model that was taught in "
        f"layers, each on top of the ones before. {subject} base + Σ deltas, summed in "
        f"float32 and rounded once to {rounded}.\n\n- base: {_base(fused.run.base)}"
    )
    if fused.retained is not None:
        text += (
            f"\n- retained: {fused.retained:.4f} of the summed delta stands in {where} (1 is all "
            "of it)"
        )
        if fused.noise is not None:
            text += f"; the rounding error is {fused.noise:.3g} times the delta"
    if fused.left_out:
        text += f"\n- left out: {fused.left_out} tensors that mlx-lm does not load"
    return text


def _base(base: dict[str, Any]) -> str:
    if "repo" in base:
        return f"{plain(base['repo'])} at {plain(base['commit'])}"
    if "tiny" in base:
        return f"a tiny random {plain(base['tiny'])}, seed {base['seed']}: for tests, not for use"
    weights = [
        f"{code(PurePath(name).name)} {sha256[:16]}"
        for name, sha256 in sorted(base["files"].items())
        if name.endswith(".safetensors")
    ]
    more = f" and {len(weights) - 10} more" if len(weights) > 10 else ""
    return f"a local folder; sha256 of its weights: {', '.join(weights[:10])}{more}"


def _warnings(fused: Origin) -> Iterator[str]:
    """What whoever takes these weights has to know first, each a paragraph."""
    if fused.bits and fused.noise is not None and fused.noise > MOST_NOISE:
        yield (
            f"**The packing drowns what was taught:** its rounding error is {fused.noise:.3g} "
            "times the summed delta. Prefer more bits or an unpacked export."
        )
    elif fused.retained is not None and fused.retained < LEAST_RETAINED:
        yield (
            f"**Part of what was taught is missing here:** only {fused.retained:.0%} of the summed "
            "delta survived. Prefer more bits or an unpacked export."
        )
    lines = accepted_lines(fused.phases)
    yield from lines[:_MOST_ACCEPTED]
    if len(lines) > _MOST_ACCEPTED:
        yield f"{len(lines) - _MOST_ACCEPTED} more requirements were accepted by hand; see Gates."


def _use(fused: Origin) -> str:
    """How to run it, in what its files are for."""
    formats = {export.format for export in fused.exports}
    text = "## Use\n\n`MODEL` is this folder, or the name of this repository."
    if any(phase.inputs.kernel for phase in fused.phases):
        text += (
            " Ask it as it is: the kernel that wrapped training rows belongs neither into a system "
            "prompt nor round a question."
        )
    if "gguf" in formats:
        return text + _gguf([e for e in fused.exports if e.format == "gguf"])
    text += "\n\n```sh\npython -m mlx_lm chat --model MODEL\n```"
    if fused.bits is not None or "mlx" in formats:
        return text
    return text + (
        "\n\n```python\nfrom transformers import pipeline\n\n"
        'ask = pipeline("text-generation", model="MODEL")\n'
        'print(ask([{"role": "user", "content": "Good morning"}], max_new_tokens=128))\n```'
    )


def _gguf(exports: Sequence[Exported]) -> str:
    by_type = {export.type: export for export in exports}
    chosen = next((by_type[t] for t in _PREFERRED if t in by_type), exports[0])
    file = argument(PurePath(min(chosen.files, default="")).name, "FILE.gguf")
    return (
        f"\n\n```sh\nllama-cli -m {file}                # llama.cpp\n"
        f"llama-server -m {file}             # the same over HTTP\n"
        f'echo "FROM ./{file}" > Modelfile   # Ollama\n'
        "ollama create mine && ollama run mine\n```\n\nLM Studio opens these files too."
    )


def _limits(fused: Origin) -> str:
    lines = [
        "For study, and for conversation as far as the base is meant for it. Not to decide about "
        "people, and not where a wrong answer does harm and nobody checks it.",
        "Losses are of the phases' own rows and validation rows, not of conduct in the world.",
        "Beyond what stands here nobody looked for harmful answers, bias or private data that it "
        "repeats; the limits of the base are its limits too.",
    ]
    if any(phase.learned.scores for phase in fused.phases):
        lines.append(
            "Scores count words and forms of English text. What they are worth as a measure of "
            "conduct has not been tested against people's judgement."
        )
    if "tiny" in fused.run.base:
        lines.insert(0, "The base is tiny and random: this model is for tests, not for use.")
    if not as_scored(fused):
        lines.append("These weights themselves answered no probes; the trained phases did.")
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(base: dict[str, Any]) -> str:
    licence = licence_of(base)
    if "tiny" in base:
        text = "The base is made by lem, whose licence is EUPL-1.2."
    elif licence.link is None:
        text = "The base's licence is not on record. It applies here too."
    elif licence.id is None:
        text = f"The base's licence is not known here: look at {licence.link}. It applies here too."
    else:
        text = f"The base's licence, {licence.id}, applies here too: {licence.link}."
    return f"## Licence\n\n{text} That of the rows is not on record."


def _again(fused: Origin) -> str:
    """What to do to get these weights again; nothing that only one machine has."""
    versions = fused.phases[-1].versions
    run = f"runs/{argument(fused.run.name, 'RUN')}"
    return (
        "## Reproduction\n\nlem.json holds the curriculum, under `run.curriculum`, and all records "
        f"of the run. With lem {plain(versions.lem_train)}, mlx {plain(versions.mlx)} and mlx-lm "
        f"{plain(versions.mlx_lm)}:\n\n```sh\nlem train curriculum.yaml --run {run}\n"
        f"lem verify {run}\n{_commands(fused, run)}\n```\n\n"
        "Rows and kernel must have the hashes above; every phase then has its fingerprint again. "
        "On one machine with the same software the weights are the same to the bit; other machines "
        "may round differently."
    )


def _commands(fused: Origin, run: str) -> str:
    lines = [_fuse_command(fused, run)]
    formats = {export.format for export in fused.exports}
    if "gguf" in formats:
        types = ",".join(argument(e.type, "TYPE") for e in fused.exports if e.format == "gguf")
        lines.append(f"lem export gguf model --out files --types {types}")
    for export in fused.exports:
        if export.format == "mlx":
            lines.append(f"lem export mlx {run} --out packed {options(export.options)}")
    return "\n".join(lines)


def _fuse_command(fused: Origin, run: str) -> str:
    command = f"lem {'rebase' if fused.scales else 'fuse'} {run} --out model"
    for phase, scale in fused.scales.items():
        name = argument(phase, "PHASE")
        command += f" --scale {name}={scale:g}" if scale else f" --drop {name}"
    if len(fused.phases) < len(fused.all_phases):
        command += f" --phase {argument(fused.phases[-1].name, 'PHASE')}"
    if fused.dtype != fused.run.dtype:
        command += f" --dtype {fused.dtype}"
    if fused.bits is not None and not fused.exports:
        command += f" --quantize {fused.bits}"
    return command


def _citation(fused: Origin, name: str) -> str:
    year, short = fused.phases[-1].finished_at[:4], fused.fingerprint[:16]
    key = "".join(sign for sign in fused.run.name if sign.isascii() and sign.isalnum())
    based = fused.run.base.get("repo")
    note = f"Trained with lem, fingerprint {short}" + (f", from {based}" if based else "")
    return (
        f"## Citation\n\n```bibtex\n@misc{{{key}{_bibtex(year)},\n  title = {{{_bibtex(name)}}},\n"
        f"  year = {{{_bibtex(year)}}},\n  note = {{{_bibtex(note)}}}\n}}\n```"
    )


def _bibtex(text: str) -> str:
    return re.sub(r"([#$%&_])", r"\\\1", re.sub(r"[\\{}`~^]", "", one_line(text)))
