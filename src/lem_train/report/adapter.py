"""What `lem convert` prints, and the README.md of an adapter folder; pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .numbers import counted

if TYPE_CHECKING:
    from ..export.convert import Adapter

_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_TOOLS = {"peft": "PEFT", "mlx": "mlx-lm"}

_README = """\
---
{front}---

# {title}

{what} {belongs}

{settings}
## Use

{use}
"""

_PEFT_USE = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")
model = PeftModel.from_pretrained(model, "ADAPTER")  # this folder
tokenizer = AutoTokenizer.from_pretrained({base})
```"""

_MLX_USE = """\
```sh
python -m mlx_lm generate --model {base} --adapter-path ADAPTER --prompt "Good morning"
```

ADAPTER is this folder."""


def adapter_card(adapter: Adapter) -> str:
    """The README.md of an adapter folder."""
    return _README.format(
        front=_front_matter(adapter),
        title=_title(adapter),
        what=_what(adapter),
        belongs=f"{_belongs(adapter)}.",
        settings="\n".join(f"- {line}" for line in _settings(adapter)) + "\n",
        use=_use(adapter),
    )


def adapter_lines(adapter: Adapter, out: str) -> list[str]:
    """What was written where, what it belongs on, and what a cut lost."""
    tool = _TOOLS[adapter.form]
    lines = [
        f"{out}: {_title(adapter)}, for {tool}: {counted(adapter.modules, 'module')}, "
        f"rank {adapter.rank}, scale {adapter.scale:g}",
        f"  {_belongs(adapter)}",
    ]
    if adapter.before:
        lines.append(f"  those weights: {_fuse_command(adapter)}")
    if adapter.loss is not None:
        lines.append(f"  {_lost(adapter)}")
    return lines


def _title(adapter: Adapter) -> str:
    if adapter.origin is None:
        return "a LoRA made with PEFT"
    name, phases = adapter.origin.run.name, adapter.phases
    if len(phases) == 1:
        return f"{name}: phase {phases[0]}"
    return f"{name}: {len(phases)} phases, {phases[0]} to {phases[-1]}"


def _what(adapter: Adapter) -> str:
    if adapter.origin is None:
        return "A LoRA made with PEFT, under the names and in the layout of mlx-lm."
    if len(adapter.phases) == 1:
        return f"What the phase {adapter.phases[0]} changed, as a LoRA."
    how = "the exact sum, their ranks side by side" if adapter.loss is None else _lost(adapter)
    return f"What the phases {', '.join(adapter.phases)} changed, as one LoRA: {how}."


def _belongs(adapter: Adapter) -> str:
    if adapter.before:
        return (
            f"It belongs on the weights after {', '.join(adapter.before)}, not on the base: on any "
            "others it is something that was never trained"
        )
    return f"It belongs on {_base(adapter)}"


def _base(adapter: Adapter) -> str:
    if adapter.origin is None:
        return _repo(adapter) or "the model that it was trained on"
    base = adapter.origin.run.base
    if "repo" in base:
        return f"{base['repo']} at {base['commit']}"
    if "tiny" in base:
        return f"a tiny random {base['tiny']}, seed {base['seed']}"
    return "the local base that the run was trained on"


def _settings(adapter: Adapter) -> list[str]:
    lines = [f"rank {adapter.rank}, scale {adapter.scale:g}, float32, {adapter.modules} modules"]
    if adapter.loss is not None and len(adapter.phases) == 1:
        lines.append(_lost(adapter))
    if adapter.origin is not None:
        lines += [
            f"{record.name}: adapter sha256 {record.adapter.get('adapters.safetensors', '–')}"
            for record in adapter.origin.phases
            if record.name in adapter.phases
        ]
        lines.append("lem.json holds the records of the training")
    return lines


def _lost(adapter: Adapter) -> str:
    assert adapter.loss is not None
    loss = adapter.loss
    return (
        f"cut from rank {adapter.full_rank} to {adapter.rank}, which loses {loss.whole:.3g} of the "
        f"change (‖ΔW − ΔW'‖ / ‖ΔW‖), most in {loss.module}: {loss.worst:.3g}"
    )


def _front_matter(adapter: Adapter) -> str:
    library = "peft" if adapter.form == "peft" else "mlx"
    lines = [f"library_name: {library}", "pipeline_tag: text-generation", "tags:", "- lora"]
    if adapter.origin is not None:
        lines.append("- lem")
    if repo := _repo(adapter):
        lines += [f"base_model: {repo}", "base_model_relation: adapter"]
    return "".join(f"{line}\n" for line in lines)


def _repo(adapter: Adapter) -> str | None:
    """The hub's name of the model that the adapter belongs on."""
    named = adapter.base if adapter.origin is None else adapter.origin.run.base.get("repo")
    return named if _is_repo(named) and not adapter.before else None


def _is_repo(name: str | None) -> bool:
    """A path, say, of somebody's machine is none."""
    return name is not None and _REPO.fullmatch(name) is not None


def _use(adapter: Adapter) -> str:
    repo = _repo(adapter) or "BASE"
    if adapter.form == "mlx":
        text = _MLX_USE.format(base=repo)
    else:
        text = _PEFT_USE.format(base=f'"{repo}"{_revision(adapter)}')
    if repo != "BASE":
        return text
    folder = (
        f"what `{_fuse_command(adapter)}` wrote" if adapter.before else "the folder of the base"
    )
    return f"{text}\n\nBASE is {folder}."


def _revision(adapter: Adapter) -> str:
    commit = adapter.origin.run.base.get("commit") if adapter.origin and _repo(adapter) else None
    return f', revision="{commit}"' if commit else ""


def _fuse_command(adapter: Adapter) -> str:
    return f"lem fuse RUN --phase {adapter.before[-1]} --out DIR"
