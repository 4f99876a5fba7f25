"""llama.cpp's quantiser, wherever it is: the program on PATH, or the Python package.

The package runs in a process of its own: this module, as a program with the arguments of
`llama-quantize`. So a crash in C is a message here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError
from .types import GgufType

_PROGRAM = "llama-quantize"
_PACKAGE = "llama_cpp"
_LAST_LINES = 6  # of what it printed, in an error
_IMPORTANCE = "--imatrix"
SUMS, COUNTS = ".in_sum2", ".counts"
"""What an importance matrix has of each weight: Σ x² by input, and over how many tokens."""


@dataclass(frozen=True)
class Quantiser:
    """How to call it, and what to call it in a message."""

    command: tuple[str, ...]
    name: str


def find_quantiser() -> Quantiser:
    """Raises WeightsError where there is none."""
    if found := shutil.which(_PROGRAM):
        program = str(Path(found).absolute())  # it runs in another folder
        return Quantiser((program,), program)
    if find_spec(_PACKAGE) is not None:
        # -P: the folder it runs in holds weights, not modules
        return Quantiser((sys.executable, "-P", "-m", __name__), f"the package {_PACKAGE}")
    raise WeightsError(
        f"packing weights needs llama.cpp; expected {_PROGRAM} on PATH, or the Python package "
        f"{_PACKAGE}, found neither. Get one of them: `brew install llama.cpp`, or `uv sync "
        '--extra llama`, which compiles (with CMAKE_ARGS="-DGGML_NATIVE=OFF" before it on '
        "processors with AMX, where it would crash); --types BF16 needs neither"
    )


def quantise(
    quantiser: Quantiser, folder: Path, source: str, out: str, kind: GgufType, matrix: str | None
) -> None:
    """Pack `folder`/`source`, a BF16 GGUF file, as `kind` into `folder`/`out`.

    The files go by their bare names: llama.cpp writes that of the matrix into what it packs, and
    a path of this machine does not belong there.

    Args:
        matrix: an importance matrix in the folder.

    Raises:
        WeightsError: llama.cpp failed or crashed, with what it said last.
    """
    importance = () if matrix is None else (_IMPORTANCE, matrix)
    threads = str(os.cpu_count() or 1)
    try:
        done = subprocess.run(
            [*quantiser.command, *importance, source, out, str(kind.number), threads],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": _module_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise WeightsError(
            f"{quantiser.name}: expected a program that runs here, and it cannot be started "
            f"({error.strerror}); install llama.cpp again: `brew install llama.cpp`"
        ) from error
    if done.returncode != 0 or not (folder / out).is_file():
        raise WeightsError(_failure(quantiser, kind, done.returncode, done.stdout))


def _module_path() -> str:
    """Where this process finds modules: a relative folder of PYTHONPATH is another one there."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path if folder)


def _failure(quantiser: Quantiser, kind: GgufType, code: int, output: str) -> str:
    crashed = code < 0
    ended = f"by {_signal(-code)}" if crashed else f"with exit code {code}"
    lines = [line for line in output.splitlines() if line.strip()][-_LAST_LINES:]
    said = "".join(f"\n  {line}" for line in lines) or "\n  nothing"
    advice = (
        '; on a processor with AMX, build the package anew: CMAKE_ARGS="-DGGML_NATIVE=OFF" uv sync '
        "--extra llama --reinstall-package llama-cpp-python"
        if crashed and quantiser.command[0] == sys.executable
        else "; update llama.cpp, or leave this type out of --types"
    )
    return (
        f"{kind.name}: expected {quantiser.name} to pack the weights, but it ended {ended}"
        f"{advice}. It said last:{said}"
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# -- the package as a program ----------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """[--imatrix FILE] SOURCE OUT TYPE-NUMBER THREADS, as `llama-quantize` has them."""
    import ctypes

    import llama_cpp

    matrix = arguments[1] if arguments[0] == _IMPORTANCE else None
    source, out, number, threads = arguments[-4:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(number), int(threads)
    entries, held = _importance(llama_cpp, matrix) if matrix else (None, None)
    if entries is not None:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    code = llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))
    del held  # llama.cpp read from it until now
    return int(code)


def read_matrix(path: Path) -> dict[str, NDArray[np.float32]]:
    """An imatrix GGUF file: means of x² by the name of the weight, (in,) float32."""
    import gguf

    found = {tensor.name: tensor.data.ravel() for tensor in gguf.GGUFReader(path).tensors}
    names = [name.removesuffix(SUMS) for name in found if name.endswith(SUMS)]
    return {name: found[f"{name}{SUMS}"] / found[f"{name}{COUNTS}"] for name in names}


def _importance(llama_cpp: Any, matrix: str) -> tuple[Any, list[Any]]:
    """The entries of a matrix as llama.cpp's array, closed by an empty one, and what they point
    to."""
    import ctypes

    means = read_matrix(Path(matrix))
    held = []
    entries = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for entry, (name, values) in zip(entries, means.items(), strict=False):
        numbers = (ctypes.c_float * len(values))(*values.tolist())
        held += [numbers, name.encode()]
        entry.name, entry.data, entry.size = held[-1], numbers, len(values)
    return entries, held


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
