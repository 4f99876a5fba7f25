"""Small folders as lem writes them, from made-up records."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from lem_train.data.kernel import Kernel
from lem_train.export import parquet
from lem_train.export.lessons import check_parts, find_parts
from lem_train.hashing import sha256_file
from lem_train.report.card import model_card
from lem_train.report.dataset_card import dataset_card
from lem_train.run.origin import Origin, kernel_marks, write_origin
from lem_train.run.records import Losses, PhaseInputs, PhaseRecord, RowCounts, RunRecord, Versions
from lem_train.weights.receipt import FuseReceipt

KERNEL = (
    "Protect what is aware and thinks, keep your counsel honest while you do it,\n"
    "and let nobody be the mere tool of another one's plan."
)
PARENT = "q" * 64
FINGERPRINT = "0123456789abcdef" * 4


def phase(name: str = "ethics", **changes: Any) -> PhaseRecord:
    fields: dict[str, Any] = {
        "index": 0,
        "name": name,
        "fingerprint": FINGERPRINT,
        "inputs": PhaseInputs(
            parent=PARENT, settings={"name": name, "wrap": "sandwich"}, kernel="k" * 64, data="d"
        ),
        "iterations": 4,
        "updates": 4,
        "data": (),
        "metrics": "m" * 64,
        "train": RowCounts(rows=6, dropped=0, trimmed=0, tokens=90, supervised=30),
        "valid": RowCounts(rows=2, dropped=0, trimmed=0, tokens=30, supervised=10),
        "losses": Losses(train_start=2.5, train_end=1.25, val_start=2.625, val_end=1.5),
        "receipt": FuseReceipt("bfloat16", 0.9981, 0.9984, 0.02, 1e-3, 0.25, 3.2e-5, 128, ()),
        "adapter": {},
        "fused": {},
        "seconds": 60.0,
        "peak_memory": 1 << 30,
        "device": "cpu",
        "versions": Versions(
            lem_train="0.1.0", mlx="0.32", mlx_lm="0.32", python="3.11", platform="Linux"
        ),
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    return PhaseRecord(**fields | changes)


def write_safetensors(path: Path, size: int, **metadata: str) -> None:
    """A file of `size` bytes of one tensor, each with a value of its own."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": metadata, "w": tensor}).encode()
    data = bytes((at * at + size) % 251 for at in range(size))
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write_gguf(path: Path, **texts: str) -> None:
    """A header with some keys of other types in between, and nothing after it."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = [text("general.alignment") + struct.pack("<II", 4, 32)]
    pairs += [text("scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.0, 1.0, 2.0)]
    tokens = text("<bos>") + text("a")
    pairs += [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + tokens]
    pairs += [text(key.replace("__", ".")) + struct.pack("<I", 8) + text(value)
              for key, value in texts.items()]  # fmt: skip
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))


def write_model(
    folder: Path,
    phases: tuple[PhaseRecord, ...] | None = None,
    curriculum: dict[str, Any] | None = None,
    sizes: tuple[int, ...] = (9000, 7000),
    **changes: Any,
) -> Path:
    """A fused model whose shards are as the last phase's record has them."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [f"model-{n:05}-of-{len(sizes):05}.safetensors" for n in range(1, len(sizes) + 1)]
    for name, size in zip(shards, sizes, strict=True):
        write_safetensors(folder / name, size, format="mlx")
    (folder / "config.json").write_text('{"model_type": "gemma3"}\n')
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}\n")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}\n')
    fused = {name: sha256_file(folder / name) for name in shards}
    run = RunRecord(
        name="pico",
        base={"tiny": "gemma3", "seed": 3},
        dtype="bfloat16",
        seed=42,
        curriculum=curriculum or {},
    )
    fields: dict[str, Any] = {
        "run": run,
        "phases": phases or (phase(fused=fused),),
        "all_phases": ("ethics",),
        "dtype": "bfloat16",
        "retained": 0.998,
        "noise": 0.02,
        "kernel": kernel_marks(Kernel(KERNEL, "", "", "")),
    }
    origin = Origin(**fields | changes)
    write_origin(folder, origin)
    (folder / "README.md").write_text(model_card(origin))
    return folder


def write_dataset(folder: Path) -> Path:
    """A lesson of three rows, as `lem export parquet` writes it."""
    rows = [{"prompt": f"What is {n}?", "completion": f"It is number {n}."} for n in range(3)]
    source = folder.parent / "lesson"
    source.mkdir(parents=True)
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_dataset(
        check_parts(find_parts([source]), []), folder, "lesson", "eupl-1.2", dataset_card
    )
    return folder
