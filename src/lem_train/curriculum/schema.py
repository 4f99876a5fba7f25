"""What a curriculum file may say: frozen models, every default, every bound.

This is the one home of defaults. Unknown keys are errors, types are strict, and the descriptions
become the JSON schema that completes the YAML in an editor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from .gate import BASELINES, Requirement, parse_requirement
from .problems import shown

Wrap = Literal["sandwich", "prefix", "system", "none"]
Overlong = Literal["stop", "drop", "trim_prompt"]
LossOn = Literal["assistant", "last", "all"]
Schedule = Literal["constant", "linear", "cosine"]
OptimizerName = Literal["adam", "adamw", "sgd", "adafactor", "muon"]
HandOverDtype = Literal["auto", "bfloat16", "float32"]
Keep = Literal["all", "last", "none"]
OnNonfinite = Literal["stop", "skip"]

# Weight decay and momentum mean something to these optimizers only.
_DECAYING = {"adamw", "sgd", "adafactor", "muon"}
_WITH_MOMENTUM = {"sgd", "muon"}
_MOMENTUM = 0.9


def _resolve(value: Any, info: ValidationInfo) -> Any:
    """A path in a curriculum is relative to the curriculum's own folder (`context["root"]`)."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("expected a path, got nothing")
    root = (info.context or {}).get("root", Path())
    try:
        return Path(root, Path(value).expanduser())
    except RuntimeError:
        text = f"expected a path whose ~ is a known home folder, got {shown(value)}"
        raise ValueError(text) from None


LocalPath = Annotated[
    Path, BeforeValidator(_resolve), WithJsonSchema({"type": "string", "minLength": 1})
]


class Frozen(BaseModel):
    """Immutable, strict, and deaf to no key: an unknown one is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class BaseConfig(Frozen):
    """The model that the first phase starts from: exactly one of `repo`, `path` and `tiny`."""

    repo: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Hugging Face model id, e.g. google/gemma-3-1b-it."""
    revision: str | None = Field(default=None, min_length=1)
    """Commit, tag or branch of `repo`; a commit hash makes the run reproducible."""
    path: LocalPath | None = None
    """A local Hugging Face folder; relative to the curriculum file."""
    tiny: Literal["gemma3", "llama", "qwen3", "mistral"] | None = None
    """A tiny random model, built on the spot: for tests and for a first look."""
    seed: int = Field(default=0, ge=0)
    """The seed of the tiny model's weights."""
    trust_remote_code: bool = False
    """Run Python code that the base brings (`model_file`, a tokenizer's `auto_map`), with all the
    rights of your account. It takes --trust-remote-code on the command line too; only beside repo
    or path."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("repo", "path", "tiny") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of repo, path and tiny, got {' and '.join(given) or 'none'}"
            )
        if (self.repo is None) != (self.revision is None):
            alone = "revision" if self.repo is None else "repo"
            raise ValueError(
                "expected repo and revision together: a base is pinned by its commit; "
                f"got {alone} alone"
            )
        if self.seed and self.tiny is None:
            raise ValueError(
                "expected seed only beside tiny: it seeds the tiny model's weights; "
                f"got {self.seed}"
            )
        if self.trust_remote_code and self.tiny is not None:
            raise ValueError(
                "expected trust_remote_code only beside repo or path, got it beside tiny: a tiny "
                "model brings no code"
            )
        return self


class KernelConfig(Frozen):
    """The LEK kernel: the files that wrap a probe. Their bytes go in verbatim."""

    text: LocalPath
    """The kernel in the form that rows carry: the narrative, or the axioms as JSON."""
    signature: LocalPath
    """The closing line of a sandwich."""


class LoraConfig(Frozen):
    """Low-rank adaptation (Hu et al. 2021): W x + scale · B A x on chosen linear modules."""

    layers: Annotated[int, Field(ge=1)] | Literal["all"] = 16
    """How many of the last transformer layers get an adapter, or `all`."""
    rank: int = Field(default=16, ge=1, le=4096)
    """Rank of A and B."""
    scale: float = Field(default=32.0, gt=0)
    """Factor on B A; what other tools write as alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    keys: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    """Module names within a layer, e.g. self_attn.q_proj; without it every linear module."""


class OptimizerConfig(Frozen):
    """The optimizer and its learning rate over the phase's updates."""

    name: OptimizerName = "adam"
    """adam and adamw are bias-corrected."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_updates: int = Field(default=0, ge=0)
    """Linear warm-up, counted in optimizer updates."""
    final_learning_rate: float = Field(default=0.0, ge=0)
    """Where the linear and the cosine schedule end."""
    weight_decay: float = Field(default=0.0, ge=0)
    """For adamw (decoupled), and for sgd, adafactor and muon."""
    momentum: float = Field(default=_MOMENTUM, ge=0, lt=1)
    """For sgd and muon."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient's global norm; null leaves it alone."""

    @model_validator(mode="after")
    def _settings_that_count(self) -> Self:
        if self.weight_decay and self.name not in _DECAYING:
            raise ValueError(
                f"expected no weight_decay with {self.name}: adamw has it; got {self.weight_decay}"
            )
        if self.momentum != _MOMENTUM and self.name not in _WITH_MOMENTUM:
            raise ValueError(
                f"expected no momentum with {self.name}: sgd and muon have it; got {self.momentum}"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"expected final_learning_rate to be at most learning_rate ({self.learning_rate}), "
                f"got {self.final_learning_rate}"
            )
        return self


class BatchConfig(Frozen):
    """How rows become updates."""

    size: int = Field(default=1, ge=1)
    """Rows in a micro-batch."""
    grad_accumulation_steps: int = Field(default=8, ge=1)
    """Micro-batches in an update; a shorter last window still updates."""
    memory_limit_gb: float | None = Field(default=None, gt=0)
    """Compute fewer rows of a micro-batch at a time where it would need more memory than this, in
    GB (10^9 bytes). Their gradients are summed: rows, iterations and updates stay the same."""


class CheckpointConfig(Frozen):
    """When a phase that is being trained is saved, so that a killed run loses little. A validation
    with the lowest loss so far is saved as well."""

    every_updates: int = Field(default=25, ge=1)
    """Updates between two checkpoints."""
    every_minutes: float = Field(default=10.0, gt=0)
    """Minutes after which the next update is followed by a checkpoint."""
    keep: int = Field(default=2, ge=1)
    """How many of the last ones stay; the one with the lowest validation loss stays beside them."""


def _requirement(text: str) -> str:
    return str(parse_requirement(text))


RequirementText = Annotated[str, AfterValidator(_requirement)]


class GateConfig(Frozen):
    """What a phase must show before it is fused. One that falls short stops the run with exit code
    3; its adapter is kept, and it can be accepted with `lem train --accept`."""

    require: Annotated[tuple[RequirementText, ...], Field(strict=False)] = ()
    """Bounds on what the phase's answers to the probes score, e.g. grammar >= 30, leakage = 0,
    grammar >= base + 2, capability >= ethics - 0.05; val_loss <= 2.5 needs no probes."""
    max_regression: Annotated[float, Field(ge=0)] | None = None
    """Nats a token by which the validation loss of an earlier phase may rise."""


class ScoringConfig(Frozen):
    """Probes that the model answers, greedily and without the kernel: before the first phase, every
    `checkpoint.every_updates` updates and after each phase. Without it nothing is answered."""

    probes: Annotated[tuple[LocalPath, ...], Field(min_length=1, strict=False)]
    """JSON files of prompts, e.g. ../seeds/checkpoint.json."""
    capability: LocalPath | None = None
    """A JSON file of short questions with checks, e.g. ../seeds/capability.json."""
    max_tokens: int = Field(default=128, ge=8)
    """Longest answer, in tokens."""
    batch_size: int = Field(default=8, ge=1)
    """Answers that are written together."""

    @property
    def files(self) -> dict[tuple[str | int, ...], Path]:
        """All files by the place of their key within this section."""
        files: dict[tuple[str | int, ...], Path] = {
            ("probes", number): path for number, path in enumerate(self.probes)
        }
        return files | ({("capability",): self.capability} if self.capability else {})


class Settings(Frozen):
    """What a phase may set for itself and `defaults` sets for all."""

    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    batch: BatchConfig = BatchConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    max_tokens: int = Field(default=3072, ge=8)
    """Longest row, in tokens, after wrapping and templating."""
    overlong: Overlong = "stop"
    """A longer row: stop with its name, drop it, or trim the prompt (never the answer)."""
    loss_on: LossOn = "assistant"
    """Where the loss falls: every assistant turn, the last one, or every token."""
    evaluate_every: int = Field(default=50, ge=1)
    """Iterations between two passes over the validation set."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    on_nonfinite: OnNonfinite = "stop"
    """An update whose loss or gradient is NaN or infinite: stop, or skip it and go on."""
    max_skipped_updates: int = Field(default=5, ge=1)
    """Updates that a phase may skip before it stops."""
    gate: GateConfig = GateConfig()


class DataConfig(Frozen):
    """JSONL files of a phase. A folder's name stands for its train.jsonl and valid.jsonl."""

    train: Annotated[tuple[LocalPath, ...], Field(min_length=1, strict=False)]
    """Rows to train on."""
    valid: Annotated[tuple[LocalPath, ...], Field(min_length=1, strict=False)]
    """Held-out rows: validation loss and the check of the fuse."""


def _folder_or_files(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    return {"train": [f"{value}/train.jsonl"], "valid": [f"{value}/valid.jsonl"]}


def _allow_a_folder(schema: dict[str, Any]) -> None:
    """Tell editors what `_folder_or_files` accepts."""
    schema["anyOf"] = [{"type": "string", "minLength": 1}, {"$ref": schema.pop("$ref")}]


class PhaseConfig(Settings):
    """One lesson: taught, verified, fused."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)
    """Unique within the curriculum; it names the phase's folder."""
    wrap: Wrap
    """sandwich: kernel, probe, signature in one user turn; prefix: kernel, probe; system: the
    kernel as system message; none: the bare probe."""
    data: Annotated[DataConfig, BeforeValidator(_folder_or_files)] = Field(
        json_schema_extra=_allow_a_folder
    )
    """A folder with train.jsonl and valid.jsonl, or lists of files."""
    iterations: int = Field(ge=1, le=1_000_000)
    """Micro-batches to train, as mlx_lm counts them."""
    biting_point: bool = False
    """Score the trained phase, and its validation rows, with the kernel, without it, and with its
    words shuffled: are the axioms in the weights, or copied from the prompt?"""

    @property
    def updates(self) -> int:
        """Optimizer updates: a shorter last window still counts."""
        return -(-self.iterations // self.batch.grad_accumulation_steps)

    @model_validator(mode="after")
    def _kernel_stays_whole(self) -> Self:
        if self.overlong == "trim_prompt" and self.wrap != "none":
            raise ValueError(
                f"expected overlong stop or drop with wrap {self.wrap}: "
                "trimming the prompt would cut the kernel; got trim_prompt"
            )
        if self.biting_point and self.overlong == "trim_prompt":
            raise ValueError(
                "expected overlong stop or drop with biting_point: the kernel is put round whole "
                "prompts, whose loss does not compare with that of trimmed ones; got trim_prompt"
            )
        if self.biting_point and self.wrap != "none":
            raise ValueError(
                "expected biting_point with wrap none: it asks whether the kernel is still needed; "
                f"got wrap {self.wrap}"
            )
        return self


class FuseConfig(Frozen):
    """How a phase's weights are handed to the next one, and what the hand-over must keep."""

    dtype: HandOverDtype = "auto"
    """auto is float32 for a float32 or float16 base, else bfloat16 (stochastically rounded)."""
    keep: Keep = "last"
    """Which phases' fused weights stay on disk; any can be rebuilt from base and adapters."""
    min_retained: float = Field(default=0.99, ge=0, le=1)
    """Least share of the intended delta that must stand in the fused weights."""
    max_kl: float = Field(default=0.05, gt=0)
    """Largest mean KL divergence (nats a token) of the fused from the adapter-loaded model."""


class Curriculum(Frozen):
    """An ordered curriculum: a base, a kernel, and phases that build on one another."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)
    """Names the run folder: runs/<name>."""
    base: BaseConfig
    kernel: KernelConfig | None = None
    seed: int = Field(default=42, ge=0)
    """All randomness of the run is a function of this seed, the phase and the step."""
    fuse: FuseConfig = FuseConfig()
    scoring: ScoringConfig | None = None
    defaults: Settings = Settings()
    phases: Annotated[tuple[PhaseConfig, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        names = [phase.name for phase in self.phases]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"expected unique phase names, got twice: {', '.join(repeated)}")
        wrapped = [phase.name for phase in self.phases if phase.wrap != "none"]
        if wrapped and self.kernel is None:
            raise ValueError(f"expected kernel files, since these wrap rows: {', '.join(wrapped)}")
        return self

    @model_validator(mode="after")
    def _gates_can_be_held(self) -> Self:
        known = ["base", "kernel"] if self.kernel else ["base"]
        for phase in self.phases:
            if phase.biting_point and not (self.kernel and self.scoring):
                lacking = "scoring with probes" if self.kernel else "kernel files"
                raise ValueError(f"expected {lacking}, since {phase.name} has a biting_point")
            for requirement in map(parse_requirement, phase.gate.require):
                if problem := self._unheld(requirement, known):
                    raise ValueError(f"gate of {phase.name}: {requirement}: {problem}")
            if phase.name in BASELINES and any(p.gate.require for p in self.phases):
                raise ValueError(
                    f"expected another name than {phase.name}: in gates it stands for a baseline"
                )
            known.append(phase.name)
        return self

    def _unheld(self, requirement: Requirement, known: Sequence[str]) -> str | None:
        """Why nobody could tell whether a requirement holds."""
        of = requirement.reference
        if requirement.measure == "val_loss":
            return of and f"expected a number: other phases have other rows; got {of}"
        if of and of not in known:
            return f"expected a baseline or an earlier phase ({', '.join(known)}), got {of}"
        if self.scoring is None:
            return "expected scoring with probes in the curriculum, got none"
        if requirement.measure == "capability" and self.scoring.capability is None:
            return "expected scoring.capability, a file of questions, got none"
        if requirement.measure == "leakage" and self.kernel is None:
            return "expected a kernel that could leak, got none"
        return None
