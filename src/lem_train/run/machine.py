"""This machine as a training meets it: its memory and its device."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["Metal", "CUDA", "CPU"]

# Of what a device has: a GPU's driver keeps some, and beside a CPU's training other programs live.
_SHARE = {"Metal": 0.9, "CUDA": 0.9, "CPU": 0.7}
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What MLX would compute on.

    `system`, `processor`: as `platform` has them, e.g. Darwin, arm64. `memory`: bytes of the
    machine, or of the container that this runs in. `device_memory`: bytes that the device may use;
    on Metal what it keeps resident, which is less than `memory`.
    """

    system: str
    processor: str
    cores: int
    memory: int
    device: Kind
    device_name: str
    device_memory: int

    @property
    def usable(self) -> int:
        """Bytes that a training may fill and leave the machine usable."""
        return int(_SHARE[self.device] * self.device_memory)


def this_machine() -> Machine:
    """Raises ImportError where MLX cannot be loaded."""
    import mlx.core as mx

    kind: Kind = "CPU"
    if mx.default_device() != mx.cpu:
        kind = "Metal" if mx.metal.is_available() else "CUDA"
    info = mx.device_info()
    memory = _memory()
    return Machine(
        system=platform.system(),
        processor=platform.machine(),
        cores=_cores(),
        memory=memory,
        device=kind,
        device_name=str(info.get("device_name") or info.get("architecture") or kind),
        device_memory=_device_memory(kind, info, memory),
    )


def _device_memory(kind: Kind, info: dict[str, Any], memory: int) -> int:
    """The key of `mx.device_info` that counts is another for each kind of device."""
    key = {"Metal": "max_recommended_working_set_size", "CUDA": "total_memory"}.get(kind)
    return int(info.get(key) or memory) if key else memory


def _memory() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER_LIMIT.read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdecimal() else memory


def _cores() -> int:
    """That this process may use; the system of a Mac tells only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def out_of_memory(error: RuntimeError) -> bool:
    """Whether MLX raised this for want of memory; it has no error of its own for that."""
    return "memory" in str(error).lower() or "allocate" in str(error)
