"""What the hub reads of a model card: its YAML block; and the licence of the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from ..run.origin import Origin
from ..run.records import Scores
from .markdown import argument
from .text import one_line

UNPACKED = {"BF16", "F16", "F32"}  # types of a GGUF file

# By the beginning of a repository's name, only where all that begin so have one licence.
_FAMILIES = {
    ("google/gemma-2b", "google/gemma-7b", "google/gemma-1.1-"): "gemma",
    ("google/gemma-2-", "google/gemma-3-", "google/gemma-3n-"): "gemma",
    ("Qwen/Qwen3-", "mistralai/Mistral-7B-", "mistralai/Mistral-Nemo-"): "apache-2.0",
    ("mistralai/Mixtral-8x7B-", "mistralai/Mixtral-8x22B-"): "apache-2.0",
    ("meta-llama/Llama-2-",): "llama2",
    ("meta-llama/Meta-Llama-3-",): "llama3",
    ("meta-llama/Llama-3.1-", "meta-llama/Meta-Llama-3.1-"): "llama3.1",
    ("meta-llama/Llama-3.2-",): "llama3.2",
    ("meta-llama/Llama-3.3-",): "llama3.3",
}


@dataclass(frozen=True)
class Licence:
    """A base's licence, as the hub names it; None: not known. `link`: the base's page there."""

    id: str | None
    link: str | None = None


def licence_of(base: dict[str, Any]) -> Licence:
    """What is certain of a base's licence by its name alone."""
    if "tiny" in base:
        return Licence("eupl-1.2")
    repo = _repo(base)
    if repo is None:
        return Licence(None)
    known = (id_ for names, id_ in _FAMILIES.items() if repo.startswith(names))
    return Licence(next(known, None), f"https://huggingface.co/{repo}")


def front_matter(origin: Origin, name: str) -> str:
    """The YAML block. Measured scores are in it where these weights are those that were scored."""
    fields: dict[str, Any] = {}
    if repo := _repo(origin.run.base):
        fields["base_model"] = repo
        fields["base_model_relation"] = _relation(origin)
    formats = {export.format for export in origin.exports}
    fields["library_name"] = formats.pop() if len(formats) == 1 else "mlx"
    fields["pipeline_tag"] = "text-generation"
    fields |= _licence_fields(licence_of(origin.run.base))
    fields["tags"] = ["lem", "lora", "curriculum"]
    scores = origin.phases[-1].learned.scores
    if scores is not None and as_scored(origin):
        fields["model-index"] = [{"name": one_line(name), "results": _results(origin, scores)}]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1_000)
    return f"---\n{text}---\n"


def packed(origin: Origin) -> bool:
    """Whether these weights, or some of them, are quantised."""
    return origin.bits is not None or any(
        export.format == "mlx" or (export.format == "gguf" and export.type not in UNPACKED)
        for export in origin.exports
    )


def as_scored(origin: Origin) -> bool:
    """Whether these weights are those that answered the probes, but for the rounding of a fuse."""
    return not packed(origin) and not origin.scales


def file_names(paths: Sequence[str]) -> str:
    """The names of files, without their folders: those are another machine's."""
    return ", ".join(one_line(PurePath(path).name) for path in paths)


def probe_files(origin: Origin) -> tuple[str, str]:
    """What the probes and the questions are from; nothing where the record does not say."""
    scoring = origin.run.curriculum.get("scoring") or {}
    questions = scoring.get("capability")
    return file_names(scoring.get("probes") or ()), file_names([questions] if questions else ())


def _repo(base: dict[str, Any]) -> str | None:
    """The base's name on the hub, if it can be one."""
    return argument(base.get("repo", ""), "") or None


def _relation(origin: Origin) -> str:
    return "quantized" if packed(origin) else "finetune"


def _licence_fields(licence: Licence) -> dict[str, str]:
    if licence.id is not None:
        return {"license": licence.id}
    if licence.link is None:
        return {}
    return {
        "license": "other",
        "license_name": "unknown-see-base-model",
        "license_link": licence.link,
    }


def _results(origin: Origin, scores: Scores) -> list[dict[str, Any]]:
    """Two sets, told apart by their type: probes, and questions with one right answer."""
    probes, questions = probe_files(origin)
    values = {name: value for name, value in scores.means.items() if name != "capability"}
    results = [_result("lem-probes", probes or "probes", scores, values)] if values else []
    if "capability" in scores.means:
        values = {"capability": scores.means["capability"]}
        results.append(_result("lem-questions", questions or "questions", scores, values))
    return results


def _result(kind: str, name: str, scores: Scores, values: dict[str, float]) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": kind, "name": name, "revision": scores.probes},
        "metrics": [_metric(measure, value, scores) for measure, value in values.items()],
    }


def _metric(measure: str, value: float, scores: Scores) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": measure, "value": round(value, 4), "name": f"mean {measure}"}
    if measure in scores.intervals:
        low, high = scores.intervals[measure]
        metric["args"] = {"interval_95": [round(low, 4), round(high, 4)]}
    return metric
