"""A run as one HTML file that needs nothing else: what was collected of it → text. No script."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from ..run.collect import Collected
from ..run.gates import failures
from ..run.look import PhaseOnDisk
from ..run.records import PhaseRecord, Verdict
from ..train.metrics import SkippedUpdate, TrainMetrics
from .against import biting, differences, means_table
from .amounts import lengths, per_phase
from .curves import learning_rates, losses, score_course
from .figure import Figure, Row, learned_of
from .kept import forgetting, retained, retained_by_layer
from .numbers import NONE, change_of, counted, format_bytes, format_seconds
from .samples import samples
from .style import style
from .svg import esc

MARK = '<!doctype html><html lang="en"><!-- lem report -->'  # a report begins with it

_HEAD = (
    MARK + '<head><meta charset="utf-8"><meta name="viewport" '
    'content="width=device-width,initial-scale=1">'
    # Nothing is fetched and no script runs, whatever a name or an answer may hold.
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<title>{title}</title><style>{style}</style></head><body><main>"
)
_CURVES = ("grammar", "uplift", "echo")


def report_html(run: Collected) -> str:
    """The whole report."""
    name = run.on_disk.record.name
    sections = [
        ("lineage", "What was trained from what", _lineage(run)),
        ("curves", "Loss and learning rate", _curves(run)),
        ("scores", "Grammar, uplift and echo", _scores(run)),
        ("forgetting", "What was forgotten", _forgetting(run)),
        ("fuses", "Fuses", _fuses(run)),
        ("gates", "Gates", _gates(run)),
        ("baselines", "Baselines against the last phase", _baselines(run)),
        ("biting", "Biting point", _biting(run)),
        ("answers", "Answers through the curriculum", _answers(run)),
        ("data", "Rows and tokens", _data(run)),
        ("cost", "Time and memory", _cost(run)),
        ("again", "Do it again", _again(run)),
    ]
    links = "".join(f'<a href="#{id_}">{title}</a>' for id_, title, _ in sections)
    body = "".join(
        f'<section id="{id_}"><h2>{title}</h2>{"".join(parts)}</section>'
        for id_, title, parts in sections
    )
    head = _HEAD.format(title=esc(f"{name}: report"), style=style())
    return f"{head}{''.join(_summary(run))}<nav>{links}</nav>{body}</main></body></html>\n"


def _summary(run: Collected) -> Iterator[str]:
    on_disk = run.on_disk
    base = _base(on_disk.record.base)
    done = f"{on_disk.finished} of {counted(len(on_disk.phases), 'phase')} done"
    yield f"<h1>{esc(on_disk.record.name)}</h1>"
    yield _text(f"{done}. {_stand(run)} It starts from {base}; seed {on_disk.record.seed}.")
    seconds = sum(p.record.seconds for p in on_disk.phases if p.record)
    if last := _records(run)[-1:]:
        loss = change_of(last[0].losses.val_start, last[0].losses.val_end)
        yield _text(
            f"The finished phases took {format_seconds(seconds)}. Validation loss of the last one, "
            f"{last[0].name}: {loss} nats a token. Finished at {last[0].finished_at}."
        )
    yield '<p class="note">In charts, phases go by their numbers:</p><ol class="key phases">'
    for number, phase in enumerate(on_disk.phases, start=1):
        yield f"<li>{number} {esc(phase.config.name)}</li>"
    yield "</ol>"


def _stand(run: Collected) -> str:
    on_disk = run.on_disk
    if on_disk.status == "done":
        return "The run is finished."
    if on_disk.writer is not None:
        return f"It is being trained ({on_disk.writer}); this is how it stood then."
    at_work = on_disk.at_work
    where = f" at {at_work.config.name}" if at_work else ""
    return f"It stopped{where}; the same lem train goes on there."


def _base(base: dict[str, Any]) -> str:
    if "repo" in base:
        return f"{base['repo']} at {base.get('commit')}"
    if "tiny" in base:
        return f"a tiny random {base['tiny']} (seed {base.get('seed')}), for tests"
    return "a local folder"


def _state(run: Collected, phase: PhaseOnDisk) -> str:
    """How far a phase is, in plain words."""
    done = max((m.iteration for m in run.metrics.get(phase.config.name, ())), default=0)
    where = f"{done:,} of {counted(phase.config.iterations, 'iteration')}"
    if phase.status == "trained" and failures(phase.verdicts):
        return "trained, refused by its gate, not fused"
    return {
        "done": "done",
        "running": f"being trained: {where}",
        "stopped": f"stopped after {where}",
        "trained": "trained, not fused yet",
        "waiting": "not trained yet",
    }[phase.status]


def _lineage(run: Collected) -> Iterator[str]:
    yield _text(
        "Each phase is a LoRA on top of the phases before it; the weights after it are base + Σ "
        "deltas. A fingerprint is the hash of all that a phase's weights depend on, that of its "
        "parent included."
    )
    rows = []
    for number, phase in enumerate(run.on_disk.phases, start=1):
        record = phase.record
        hashes = (
            (
                _short(record.fingerprint),
                _short(record.inputs.parent),
                _short(record.inputs.data),
                _short(record.inputs.kernel),
                _short(_weights(record.adapter)),
                _short(_weights(record.fused)),
            )
            if record
            else (NONE,) * 6
        )
        wrap, state = phase.config.wrap, _state(run, phase)
        rows.append((f"{number} {phase.config.name}", state, wrap, *hashes))
    head = ("phase", "state", "wrap", "fingerprint", "parent", "rows", "kernel", "adapter", "fused")
    yield _table(head, rows)
    yield _folded("Hashes in full (sha256)", "".join(_hashes(run)))


def _hashes(run: Collected) -> Iterator[str]:
    files = run.on_disk.record.base_files
    yield _pairs({f"base {name}": file.sha256 for name, file in sorted(files.items())})
    for record in _records(run):
        yield f"<h3>{esc(record.name)}</h3>"
        yield _pairs(
            {
                "fingerprint": record.fingerprint,
                "parent": record.inputs.parent,
                "kernel": record.inputs.kernel or NONE,
                "rows": record.inputs.data,
                **{f"{file.split} {file.name}": file.sha256 for file in record.data},
                **{f"adapter {name}": sha256 for name, sha256 in record.adapter.items()},
                **{f"fused {name}": sha256 for name, sha256 in record.fused.items()},
                "metrics.jsonl": record.metrics,
            }
        )


def _curves(run: Collected) -> Iterator[str]:
    lost = [r.name for r in _records(run) if r.name not in run.metrics]
    if lost:
        yield _none(f"The metrics of {', '.join(lost)} are gone from the run folder.")
    if not any(isinstance(m, TrainMetrics) for found in run.metrics.values() for m in found):
        if not lost:
            yield _none("Nothing has been trained yet: there are no losses to draw.")
    else:
        yield _charts([losses(run), learning_rates(run)])
    skipped = [
        (name, f"{m.update:,}", m.skipped)
        for name, found in run.metrics.items()
        for m in found
        if isinstance(m, SkippedUpdate)
    ]
    if skipped:
        yield "<h3>Updates that were left out</h3>"
        yield _table(("phase", "update", "what was not finite"), skipped, words=(2,))
    rows = [
        (
            r.name,
            change_of(r.losses.train_start, r.losses.train_end),
            change_of(r.losses.val_start, r.losses.val_end),
            f"{r.updates:,}",
            f"{r.iterations:,}",
        )
        for r in _records(run)
    ]
    if rows:
        yield _table(("phase", "training loss", "validation loss", "updates", "iterations"), rows)


def _scores(run: Collected) -> Iterator[str]:
    if run.on_disk.curriculum.scoring is None:
        yield _none("The curriculum has no scoring: nobody asked the model anything on the way.")
        return
    found = [chart for measure in _CURVES if (chart := score_course(run, measure))]
    if not found:
        yield _none("Nothing has been scored yet.")
        return
    yield _charts(found)


def _forgetting(run: Collected) -> Iterator[str]:
    figure = forgetting(run)
    if figure is None:
        yield _none("No phase has been examined yet.")
        return
    if len(figure.rows) == 1:
        yield _none("One phase so far: there is nothing before it that could be forgotten.")
    yield _charts([figure])


def _fuses(run: Collected) -> Iterator[str]:
    found = [retained(run), retained_by_layer(run)]
    if not any(found):
        yield _none("No phase has been fused yet.")
        return
    yield _charts([figure for figure in found if figure])


def _gates(run: Collected) -> Iterator[str]:
    found = [(phase.config.name, v) for phase in run.on_disk.phases for v in phase.verdicts]
    gates = [phase.config.gate for phase in run.on_disk.phases]
    if found:
        passed = sum(v.passed for _, v in found)
        yield _text(f"{passed} of {counted(len(found), 'requirement')} passed.")
        if short := [(name, v) for name, v in found if not v.passed]:
            yield _verdicts(short)
        yield _folded("All requirements", _verdicts(found))
    elif any(gate.require or gate.max_regression is not None for gate in gates):
        yield _none("No phase has come to its gate yet.")
    else:
        yield _none("The curriculum has no gates: phases were fused whatever they showed.")


def _verdicts(found: Sequence[tuple[str, Verdict]]) -> str:
    rows = [
        (name, v.requirement, _figure(v.value), _figure(v.bound), _verdict(v)) for name, v in found
    ]
    return _table(("phase", "requirement", "got", "bound", "verdict"), rows, words=(1, 4))


def _verdict(verdict: Verdict) -> str:
    if verdict.accepted is not None:
        return f"failed, accepted: {verdict.accepted}"
    if verdict.value is None or verdict.bound is None:
        return "not measured on the same probes"
    return "passed" if verdict.passed else "failed"


def _baselines(run: Collected) -> Iterator[str]:
    last = _last_scored(run)
    if not run.on_disk.record.baselines:
        yield _none("The base was not scored: there is nothing to compare with.")
        return
    yield _table(*means_table(run, last or ""))
    if last is None:
        yield _none("No phase has been scored at its end yet: these are the baselines alone.")
        return
    figure = differences(run, last)
    if figure is None:
        yield _none(
            "There are no intervals: the answers are gone from the run folder, or are to other "
            "probes."
        )
    else:
        yield _charts([figure])


def _biting(run: Collected) -> Iterator[str]:
    found = [f for m in ("grammar", "val_loss") if (f := biting(run, m))]
    if found:
        yield _charts(found)
    else:
        yield _none("No phase was asked for its biting point (biting_point: true), or not yet.")


def _answers(run: Collected) -> Iterator[str]:
    names = {"kernel": "base with the kernel", "base": "bare base"}
    order = [*names, *(phase.config.name for phase in run.on_disk.phases)]
    sets = {names.get(name, name): run.answers[name] for name in order if name in run.answers}
    if sets:
        yield samples(sets)
    else:
        yield _none("There are no answers: nothing was scored, or its answers are gone.")


def _data(run: Collected) -> Iterator[str]:
    records = _records(run)
    if not records:
        yield _none("No phase is finished: how many rows and tokens it has is not recorded yet.")
        return
    rows = [
        (
            record.name,
            split,
            *(f"{n:,}" for n in (c.rows, c.dropped, c.trimmed, c.tokens, c.supervised)),
            f"{record.shared_prefix:,}",
        )
        for record in records
        for split, c in (("train", record.train), ("valid", record.valid))
    ]
    head = ("phase", "split", "rows", "dropped", "trimmed", "tokens", "supervised", "shared prefix")
    yield _table(head, rows)
    yield "<h3>How long training rows are, in tokens</h3>"
    found = [f for record in records if (f := lengths(record.name, record.train))]
    if found:
        yield _charts(found)
    else:
        yield _none("The version of lem that trained these phases did not record it.")


def _cost(run: Collected) -> Iterator[str]:
    ended = [phase.record or phase.trained for phase in run.on_disk.phases]
    if not any(ended):
        yield _none("No phase has been trained to its end yet.")
        return
    seconds = [e.seconds if e else None for e in ended]
    size, unit = next(
        (size, unit)
        for size, unit in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
        if max(s or 0 for s in seconds) >= 3 * size or size == 1
    )
    yield _charts(
        [
            per_phase(run, "Time", unit, [s and s / size for s in seconds]),
            per_phase(
                run, "Peak memory", "GB", [e.peak_memory / 1e9 if e else None for e in ended]
            ),
        ]
    )
    rows = []
    for phase, record in zip(run.on_disk.phases, ended, strict=True):
        if record is None:
            continue
        steps = [m for m in run.metrics.get(phase.config.name, ()) if isinstance(m, TrainMetrics)]
        spent, tokens = sum(m.seconds for m in steps), sum(m.tokens for m in steps)
        device = phase.record.device if phase.record else NONE
        speed = f"{tokens / spent:,.0f}" if spent else NONE
        took = format_seconds(record.seconds)
        rows.append((phase.config.name, took, speed, format_bytes(record.peak_memory), device))
    yield _table(("phase", "time", "tokens/s in training", "peak memory", "device"), rows)


def _again(run: Collected) -> Iterator[str]:
    folder = shlex.quote(str(run.on_disk.run))
    phases = run.on_disk.phases
    lines = ["# the curriculum below, as curriculum.yaml"]
    lines.append(f"lem train curriculum.yaml --run {folder}")
    for phase in phases:
        if reasons := [v.accepted for v in phase.verdicts if v.accepted is not None]:
            reason = shlex.quote(reasons[0])
            command = f"lem train curriculum.yaml --run {folder}"
            lines.append(f"{command} --accept {shlex.quote(phase.config.name)} --reason {reason}")
    lines += [f"lem verify {folder}", f"lem fuse {folder} --out model"]
    if len(phases) > 1:
        first = shlex.quote(phases[0].config.name)
        lines += [f"lem fuse {folder} --phase {first} --out model-after-first"]
    yield _text(
        "With the same files, seed and software, on the same kind of machine, adapters and weights "
        "come out bit for bit. The hashes above say whether files are the same."
    )
    yield f"<pre>{esc(chr(10).join(lines))}</pre>"
    yield from _software(run)
    text = yaml.safe_dump(_curriculum(run), sort_keys=False, allow_unicode=True, width=100)
    yield _folded("The curriculum, curriculum.yaml", f"<pre>{esc(text)}</pre>")


def _software(run: Collected) -> Iterator[str]:
    by_versions: dict[str, list[str]] = {}
    for record in _records(run):
        v = record.versions
        words = (
            f"lem {v.lem_train}, mlx {v.mlx}, mlx-lm {v.mlx_lm}, Python {v.python}, {v.platform}; "
            f"{record.device}"
        )
        by_versions.setdefault(words, []).append(record.name)
    if not by_versions:
        yield _none("No phase is finished: the software is not recorded yet.")
    for words, names in by_versions.items():
        whom = "all finished phases" if len(by_versions) == 1 else ", ".join(names)
        yield _text(f"Software of {whom}: {words}.")


def _curriculum(run: Collected) -> dict[str, Any]:
    """The curriculum as it was run: what is not a default, each phase by itself."""
    found = run.on_disk.curriculum.model_dump(mode="json", exclude_defaults=True)
    found.pop("defaults", None)
    return found


def _last_scored(run: Collected) -> str | None:
    scored = [
        phase.config.name
        for phase in run.on_disk.phases
        if (learned := learned_of(phase)) and learned.scores
    ]
    return scored[-1] if scored else None


def _records(run: Collected) -> list[PhaseRecord]:
    return [phase.record for phase in run.on_disk.phases if phase.record]


def _weights(files: dict[str, str]) -> str | None:
    """The hash of a folder's weights: of the first file, where there are several."""
    return next((files[n] for n in sorted(files) if n.endswith(".safetensors")), None)


def _short(sha256: str | None) -> str:
    return NONE if sha256 is None else sha256[:12]


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _text(words: str) -> str:
    return f"<p>{esc(words)}</p>"


def _none(words: str) -> str:
    return f'<p class="none">{esc(words)}</p>'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{esc(title)}</summary>{content}</details>"


def _pairs(pairs: dict[str, str]) -> str:
    rows = (f"<dt>{esc(k)}</dt><dd><code>{esc(v)}</code></dd>" for k, v in pairs.items())
    return f"<dl>{''.join(rows)}</dl>"


def _table(head: Row, rows: Sequence[Row], words: Sequence[int] = ()) -> str:
    """`words`: columns that hold prose, and may break."""
    kinds = [' class="words"' if n in words else "" for n in range(len(head))]
    top = "".join(
        f'<th scope="col"{k}>{esc(cell)}</th>' for k, cell in zip(kinds, head, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{esc(c)}</td>' for k, c in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    label = esc(f"table of {head[0]} and {head[1]}")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead>'
        f"<tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _charts(found: Sequence[Figure]) -> str:
    return f'<div class="charts">{"".join(map(_chart, found))}</div>'


def _chart(figure: Figure) -> str:
    names = (f'<li class="s{n}">{esc(name)}</li>' for n, name in enumerate(figure.key))
    key = f'<ul class="key">{"".join(names)}</ul>' if figure.key else ""
    caption = f"<figcaption><b>{esc(figure.title)}</b>{esc(figure.caption)}</figcaption>"
    table = _folded("Table", _table(figure.head, figure.rows))
    return f"<figure>{caption}{key}{figure.svg}{table}</figure>"
