"""`lem doctor` from the inside: each finding by itself, from facts that are put in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

import lem_train.run.doctor as doctor
import lem_train.run.preview as run_preview
import lem_train.weights.hub as hub
from lem_train.curriculum.schema import BaseConfig
from lem_train.errors import WeightsError
from lem_train.run.doctor import Finding, examine
from lem_train.run.machine import Machine
from lem_train.run.preview import RunPreview, preview_run
from lem_train.run.store import writing

if TYPE_CHECKING:
    from conftest import Pico

LINUX = Machine("Linux", "x86_64", 2, 16 * 10**9, "CPU", "Xeon", 16 * 10**9)
MAC = Machine("Darwin", "arm64", 8, 32 * 10**9, "Metal", "Apple M2", 22 * 10**9)
CUDA = Machine("Linux", "x86_64", 16, 128 * 10**9, "CUDA", "H200", 140 * 10**9)
OPENBLAS = Path("/usr/lib/x86_64-linux-gnu/libopenblas.so.0")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine for every test, and no network."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(doctor, "this_machine", lambda: LINUX)
    monkeypatch.setattr(doctor, "product_rate", lambda: 100e9)
    monkeypatch.setattr(run_preview, "measured_rate", lambda: 1e10)
    monkeypatch.setattr(hub, "logged_in", lambda: False)
    monkeypatch.setattr(hub, "download_bytes", refuse)


# -- the machine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "state"),
    [("3.11.0", "ok"), ("3.14.0rc1", "ok"), ("3.10.12", "fail"), ("2.7.18", "fail")],
)
def test_a_python_below_the_range_fails(found: str, state: str) -> None:
    finding = doctor.python_finding(found, ">=3.11")
    assert finding.state == state
    assert bool(finding.advice) == (state == "fail")


NEEDED = [Requirement("mlx<0.33,>=0.32.4"), Requirement("rich<16,>=15")]


@pytest.mark.parametrize(
    ("installed", "state", "found"),
    [
        ({"mlx": "0.32.4", "rich": "15.1"}, "ok", "2 within their ranges: mlx 0.32.4"),
        ({"mlx": "0.33.0", "rich": "15.1"}, "warn", "mlx 0.33.0, expected <0.33,>=0.32.4"),
        ({"mlx": "0.32.4", "rich": None}, "fail", "no rich"),
        ({"mlx": "0.31.0", "rich": None}, "fail", "no rich; mlx 0.31.0, expected <0.33,>=0.32.4"),
    ],
)
def test_packages_are_held_against_their_ranges(
    installed: dict[str, str | None], state: str, found: str
) -> None:
    finding = doctor.packages_finding(NEEDED, installed)
    assert (finding.state, finding.found) == (state, found)


def test_requirements_of_extras_and_of_other_systems_do_not_count() -> None:
    texts = ["rich>=15", "tensorboardX>=2; extra == 'track'", "mlx>=1; sys_platform == 'plan9'"]
    assert [one.name for one in doctor._requirements(texts)] == ["rich"]


def test_a_package_that_is_not_there_has_no_version() -> None:
    needed = [Requirement("rich"), Requirement("no-such-package-here")]
    found = doctor._installed(needed)
    assert found["rich"] and found["no-such-package-here"] is None


def test_the_device_is_named() -> None:
    assert doctor.device_finding(LINUX) == Finding("device", "ok", "CPU: Xeon, 2 CPU cores")
    assert doctor.device_finding(MAC).state == doctor.device_finding(CUDA).state == "ok"


def test_a_mac_without_metal_is_noted() -> None:
    finding = doctor.device_finding(replace(MAC, device="CPU"))
    assert finding.state == "warn" and "arm64" in finding.advice


def test_mlx_that_cannot_be_loaded_ends_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Machine:
        raise ImportError("libmlx.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "this_machine", broken)
    findings = list(examine(None))
    assert findings[-1].state == "fail" and "libmlx.so" in findings[-1].found
    assert [finding.name for finding in findings] == ["python", "packages", "device"]


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        (LINUX, "16.0 GB; 11.2 GB for a training"),
        (MAC, "32.0 GB; wired limit 22.0 GB, 19.8 GB for a training"),
        (CUDA, "128.0 GB; the device's own 140.0 GB, 126.0 GB for a training"),
    ],
)
def test_the_memory_of_each_device(machine: Machine, found: str) -> None:
    assert doctor.memory_finding(machine).found == found


@pytest.mark.parametrize("there", [True, False])
def test_a_slow_blas_has_its_remedy(there: bool) -> None:
    finding = doctor.blas_finding(LINUX, 6e9, OPENBLAS, there, False)
    assert finding.state == "warn"
    assert finding.found == "6 GFLOP/s in float32 products, 3 a core"
    assert f"LD_PRELOAD={OPENBLAS}" in finding.advice
    assert ("apt-get install libopenblas0" in finding.advice) is not there


def test_a_busy_machine_is_not_told_to_preload_what_it_has() -> None:
    finding = doctor.blas_finding(LINUX, 6e9, OPENBLAS, True, True)
    assert finding.state == "warn" and "LD_PRELOAD" not in finding.advice


def test_a_fast_blas_is_fine_on_few_and_on_many_cores() -> None:
    assert doctor.blas_finding(LINUX, 380e9, OPENBLAS, False, False).state == "ok"
    assert (
        doctor.blas_finding(replace(LINUX, cores=128), 380e9, OPENBLAS, False, False).state == "ok"
    )


def test_where_openblas_lies_goes_by_the_processor() -> None:
    arm = doctor.openblas_path(replace(LINUX, processor="aarch64"))
    assert arm == Path("/usr/lib/aarch64-linux-gnu/libopenblas.so.0")


@pytest.mark.parametrize("machine", [MAC, CUDA])
def test_only_a_cpu_on_linux_has_its_products_timed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "this_machine", lambda: machine)
    assert "blas" not in [finding.name for finding in examine(None)]


@pytest.mark.parametrize(
    ("free", "needed", "state"),
    [(10**9, None, "warn"), (10**10, None, "ok"), (10, 9, "ok"), (10, 10, "ok"), (10, 11, "fail")],
)
def test_room_on_the_disk(free: int, needed: int | None, state: str) -> None:
    finding = doctor.room_finding("disk", Path("runs/x"), free, needed)
    assert finding.state == state
    assert bool(finding.advice) == (state != "ok")


def test_a_machine_alone_is_looked_at_without_a_curriculum() -> None:
    names = [finding.name for finding in examine(None)]
    assert names == ["python", "packages", "device", "memory", "blas", "disk", "hub"]


# -- a curriculum ------------------------------------------------------------------------------


def found(pico: Pico, *settings: str, run: Path | None = None) -> dict[str, Finding]:
    run = run or pico.root / "run"
    return {finding.name: finding for finding in examine(pico.file, run, settings)}


def failed(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.state == "fail"]


def test_a_sound_curriculum_has_nothing_to_look_at_and_nothing_is_written(pico: Pico) -> None:
    before = pico.snapshot(pico.root)
    findings = found(pico)
    assert [finding for finding in findings.values() if finding.state != "ok"] == []
    assert list(findings)[-6:] == ["curriculum", "run", "base", "rows", "estimate", "disk"]
    assert pico.snapshot(pico.root) == before


def test_a_curriculum_that_cannot_be_read_fails_with_its_lines(pico: Pico) -> None:
    pico.edit("pico.yaml", "rank: 4", "rank: 0")
    finding = found(pico)["curriculum"]
    assert finding.state == "fail"
    assert "defaults.lora.rank: expected an integer ≥ 1" in finding.found
    assert "pico.yaml:5" in finding.found


def test_rows_that_cannot_be_read_fail_with_their_lines(pico: Pico) -> None:
    (pico.root / "zen" / "train.jsonl").write_text('{"prompt": 1}\n')
    findings = found(pico)
    assert failed(findings) == ["rows"]
    assert "train.jsonl:1" in findings["rows"].found


def test_rows_are_looked_at_even_where_the_base_fails(pico: Pico, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pico.edit("pico.yaml", "{tiny: gemma3}", f"{{path: {tmp_path / 'empty'}}}")
    (pico.root / "zen" / "train.jsonl").write_text('{"prompt": 1}\n')
    assert failed(found(pico)) == ["base", "rows"]


def test_an_empty_kernel_fails_with_the_rows(pico: Pico) -> None:
    (pico.root / "kernel.txt").write_text("\n")
    findings = found(pico, "base={path: /}")
    assert failed(findings) == ["base", "rows"]
    assert "kernel.txt" in findings["rows"].found


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("defaults.batch.memory_limit_gb=0.001", "phase zen: batch.memory_limit_gb: one row needs"),
        ("defaults.lora.layers=99", "phase zen: lora.layers: expected at most 2"),
        ("defaults.lora.keys=[mlp.nope]", "phase zen: lora.keys: expected linear modules"),
        ("defaults.max_tokens=9", "phase zen: 6 train row(s) over 9 tokens (the run would stop)"),
        ("phases.zen={max_tokens: 9, overlong: drop}", "expected train rows of at most 9 tokens"),
    ],
)
def test_what_would_stop_a_run_fails(pico: Pico, setting: str, told: str) -> None:
    if setting.startswith("phases.zen="):
        pico.edit("pico.yaml", "zen, iter", "zen, max_tokens: 9, overlong: drop, iter")
        findings = found(pico)
    else:
        findings = found(pico, setting)
    assert failed(findings) == ["rows"]
    assert told in findings["rows"].found


def test_rows_that_are_left_out_are_noted(pico: Pico) -> None:
    findings = found(pico, "phases.zen.optimizer={warmup_updates: 99}")
    assert failed(findings) == []
    assert findings["rows"].state == "warn" and "warm-up" in findings["rows"].found


def test_a_finished_run_needs_no_room(pico: Pico, run: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(doctor, "free_bytes", lambda _: 0)
    assert failed(found(pico)) == ["disk"]
    assert failed(found(pico, run=run)) == []


def test_a_phase_under_a_raised_bar_fails(pico: Pico, run: Path) -> None:
    findings = found(pico, "fuse.min_retained=1.0", "fuse.max_kl=1e-12", run=run)
    assert failed(findings) == ["rows"]
    assert "under the bar" in findings["rows"].found


def test_probes_are_looked_at(pico: Pico, tiny_folder: Callable[[str], Path]) -> None:
    probe = {"id": "P1", "domain": "ethics", "prompt": "What is owed?"}
    pico.edit("pico.yaml", "kernel:", "scoring: {probes: [evaluation.json]}\nkernel:")
    pico.edit("pico.yaml", "{tiny: gemma3}", f"{{path: {tiny_folder('gemma3')}}}")
    file = pico.root / "evaluation.json"
    file.write_text(json.dumps([probe]))
    assert found(pico)["scoring"] == Finding("scoring", "ok", "1 to be asked, read without a fault")
    file.write_text(json.dumps([{**probe, "prompt": "<end_of_turn>"}]))  # cannot be asked
    assert failed(found(pico)) == ["scoring"]
    file.write_text("[]")
    assert failed(found(pico)) == ["scoring"]


def test_a_gate_that_could_not_be_held_fails(pico: Pico, run: Path) -> None:
    """The finished phases were not scored, and the next is to be better than one of them."""
    (pico.root / "evaluation.json").write_text(
        json.dumps([{"id": "P1", "domain": "ethics", "prompt": "What is owed?"}])
    )
    pico.edit("pico.yaml", "kernel:", "scoring: {probes: [evaluation.json]}\nkernel:")
    gate = ("phases.last.gate={require: [grammar >= zen]}", "phases.last.iterations=8")
    findings = found(pico, *gate, run=run)
    assert failed(findings) == ["rows"]
    assert "grammar >= zen: zen was scored on other probes, or on none" in findings["rows"].found


# -- where it is to go -------------------------------------------------------------------------


def test_a_file_in_the_way_of_the_run_fails(pico: Pico) -> None:
    (pico.root / "run").write_text("")
    assert failed(found(pico)) == ["run"]


def test_a_damaged_record_fails(pico: Pico, run: Path) -> None:
    (run / "run.json").write_text("{")
    assert failed(found(pico, run=run)) == ["run"]


def test_a_run_that_somebody_writes_fails(pico: Pico, tmp_path: Path) -> None:
    with writing(tmp_path / "run"):
        finding = doctor.run_folder_finding(tmp_path / "run")
    assert finding.state == "fail" and str(os.getpid()) in finding.found
    assert doctor.run_folder_finding(tmp_path / "run").state == "ok"


def test_a_folder_that_cannot_be_written_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert doctor.run_folder_finding(tmp_path / "a" / "run").state == "fail"


# -- the estimate ------------------------------------------------------------------------------


@pytest.fixture
def preview(pico: Pico, tmp_path: Path) -> Callable[[int], RunPreview]:
    """The pico's preview, with a memory of so many bytes put into its second phase."""

    def needs(memory: int) -> RunPreview:
        plain = preview_run(pico.load(), tmp_path / "run")
        first, zen, last = plain.phases
        assert zen.cost is not None
        zen = replace(zen, cost=replace(zen.cost, memory=memory))
        return replace(plain, phases=(first, zen, last))

    return needs


@pytest.mark.parametrize(
    ("machine", "gigabytes", "state"),
    [
        (LINUX, 11.2, "ok"),
        (LINUX, 11.3, "warn"),
        (LINUX, 19.9, "warn"),
        (LINUX, 20.1, "fail"),
        (MAC, 19.9, "warn"),
        (MAC, 41, "fail"),
        (CUDA, 130, "warn"),
        (CUDA, 176, "fail"),
    ],
)
def test_memory_is_held_against_the_machine(
    machine: Machine, gigabytes: float, state: str, preview: Callable[[int], RunPreview]
) -> None:
    finding = doctor.estimate_finding(machine, preview(int(gigabytes * 1e9)))
    assert finding.state == state
    assert "in zen" in finding.found
    assert ("memory_limit_gb" in finding.advice) == (state != "ok")


def test_the_wired_limit_is_advised_only_where_it_leaves_the_system_its_share(
    preview: Callable[[int], RunPreview],
) -> None:
    told = doctor.estimate_finding(MAC, preview(21 * 10**9)).advice
    assert f"sudo sysctl iogpu.wired_limit_mb={int(21e9 * 1.25) >> 20}" in told
    assert "sysctl" not in doctor.estimate_finding(MAC, preview(25 * 10**9)).advice
    assert "sysctl" not in doctor.estimate_finding(LINUX, preview(15 * 10**9)).advice


# -- the base ----------------------------------------------------------------------------------


def test_a_folder_without_a_template_fails_at_its_tokenizer(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    base = BaseConfig(path=folder)
    assert doctor._find_tokenizer(base, folder, False)[0].state == "ok"
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    finding, _ = doctor._find_tokenizer(base, folder, False)
    assert finding.state == "fail" and "never" in finding.found


def test_a_truncated_weight_file_fails_at_the_base(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("qwen3"), tmp_path / "model")
    pico.edit("pico.yaml", "{tiny: gemma3}", f"{{path: {folder}}}")
    assert failed(found(pico)) == []
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(2000)
    assert failed(found(pico)) == ["base"]


def test_code_that_nobody_allowed_fails_at_the_base(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "model.py"}))
    finding, _, _ = doctor._find_base(BaseConfig(path=folder), False)
    assert finding.state == "fail" and "trust_remote_code" in finding.found


REPO = BaseConfig(repo="someone/model", revision=COMMIT)


def test_a_base_in_the_cache_is_not_asked_for(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached_folder", lambda *_: tiny_folder("gemma3"))
    finding, folder, download = doctor._find_base(REPO, False)
    assert finding.state == "ok" and "in the cache" in finding.found
    assert (folder, download) == (tiny_folder("gemma3"), 0)


def test_a_base_on_the_hub_is_told_with_its_size(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached_folder", lambda *_: None)
    monkeypatch.setattr(hub, "download_bytes", lambda *_: 2_000_000_000)
    monkeypatch.setattr(hub, "download_tokenizer", lambda *_: tiny_folder("gemma3"))
    finding, folder, download = doctor._find_base(REPO, False)
    assert finding == Finding("base", "ok", "someone/model, on the hub: 2.0 GB will be downloaded")
    assert (folder, download) == (tiny_folder("gemma3"), 2_000_000_000)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [(hub.Unreachable, "connect to the network"), (WeightsError, "do that, or name another base")],
)
def test_a_base_that_cannot_be_had_fails(
    kind: type[WeightsError], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise kind("not to be had")

    monkeypatch.setattr(hub, "cached_folder", lambda *_: None)
    monkeypatch.setattr(hub, "download_bytes", refuse)
    finding, folder, _ = doctor._find_base(REPO, False)
    assert (finding.state, finding.found, folder) == ("fail", "not to be had", None)
    assert finding.advice.startswith(advice)


def test_a_download_and_the_run_share_a_disk(
    pico: Pico, preview: Callable[[int], RunPreview], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(doctor, "free_bytes", lambda _: 10**9)
    (alone,) = doctor._room_findings(preview(1), 0)
    (together,) = doctor._room_findings(preview(1), 10**9)
    assert (alone.state, together.state) == ("ok", "fail")
    monkeypatch.setattr(doctor, "_disk", lambda folder: folder.name)
    cache, run = doctor._room_findings(preview(1), 2 * 10**9)
    assert (cache.name, cache.state, run.state) == ("cache", "fail", "ok")
