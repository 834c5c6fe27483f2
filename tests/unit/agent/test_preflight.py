from __future__ import annotations

import os
import pathlib

import pytest

from runnerd.agent import nvidia, preflight
from tests.unit.agent import agent_loopback

T4 = "GPU 0: Tesla T4 (UUID: GPU-5a1b)\n"


class Time:
    """A clock that sleeps in no time."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def _unexpected(seconds: float) -> None:
    raise AssertionError(f"it sleeps {seconds} s")


@pytest.fixture
def tools(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return directory


@pytest.mark.parametrize(
    ("wanted", "model", "fits"),
    [
        ("t4", "Tesla T4", True),
        ("t4", "NVIDIA L4", False),
        ("l4", "NVIDIA L40S", False),
        ("a100-40", "NVIDIA A100-SXM4-40GB", True),
        ("a100-40", "NVIDIA A100-SXM4-80GB", False),
        ("a100-80", "NVIDIA A100 80GB PCIe", True),
        ("a100", "NVIDIA A100-SXM4-80GB", True),
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("h200", "NVIDIA H200", True),
        ("h200-141", "NVIDIA H200", True),
        ("rtx-6000", "Quadro RTX 6000", True),
        ("", "anything", True),
    ],
)
def test_a_model_fits_its_short_name(wanted: str, model: str, fits: bool) -> None:
    assert preflight.fits(wanted, model) is fits


def test_parts_of_a_gpu_are_not_gpus() -> None:
    text = T4 + "  MIG 1g.5gb     Device  0: (UUID: MIG-1)\nGPU 1: Tesla T4 (UUID: GPU-77)\n"
    assert nvidia.listed(text) == ["Tesla T4", "Tesla T4"]


def test_the_right_gpus_pass(tools: pathlib.Path) -> None:
    agent_loopback.script(tools / "nvidia-smi", 'test "$1" = -L && echo "GPU 0: Tesla T4 (UUID: GPU-5a1b)"\n')
    assert preflight.check(1, "t4", patience=0) == ["Tesla T4"]


def test_a_driver_that_comes_up_late_is_waited_for() -> None:
    answers: list[nvidia.NoAnswer | list[str]] = [nvidia.NoAnswer("not yet"), nvidia.NoAnswer("not yet"), ["Tesla T4"]]
    time = Time()

    def look() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert preflight.check(1, "t4", patience=10, list_models=look, now=time.now, sleep=time.sleep) == ["Tesla T4"]
    assert time.at == 2


def test_a_missing_gpu_fails_the_gate_sooner_than_a_missing_driver() -> None:
    time = Time()
    with pytest.raises(preflight.Failed, match="1 GPU found, 2 GPUs required"):
        preflight.check(2, "t4", patience=120, list_models=lambda: ["Tesla T4"], now=time.now, sleep=time.sleep)
    assert time.at == preflight.SETTLE_S

    def silent() -> list[str]:
        raise nvidia.NoAnswer("no answer")

    time = Time()
    with pytest.raises(preflight.Failed, match="no answer; 2 GPUs required"):
        preflight.check(2, "t4", patience=120, list_models=silent, now=time.now, sleep=time.sleep)
    assert time.at == 120


def test_the_wrong_model_fails_at_once() -> None:
    with pytest.raises(preflight.Failed, match='"NVIDIA L4", t4 is required'):
        preflight.check(1, "t4", patience=120, list_models=lambda: ["NVIDIA L4"], sleep=_unexpected)


def test_without_a_wanted_gpu_nothing_is_asked() -> None:
    assert preflight.check(-1, "", patience=0, list_models=pytest.fail) == []
    assert preflight.check(0, "", patience=0, list_models=pytest.fail) == []


def test_what_a_failing_driver_says_is_told(tools: pathlib.Path) -> None:
    agent_loopback.script(tools / "nvidia-smi", "echo 'Failed to initialize NVML: Driver mismatch'\nexit 18\n")
    with pytest.raises(nvidia.NoAnswer, match="status 18: Failed to initialize NVML"):
        nvidia.models(proc=tools / "none")


def test_the_drivers_files_stand_in_for_a_missing_tool(tools: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(nvidia.NoAnswer, match="no nvidia-smi"):
        nvidia.models(proc=tools)
    card = tools / "0000:00:1e.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t Tesla T4\nIRQ:   \t\t 10\n")
    assert nvidia.models(proc=tools) == ["Tesla T4"]


def test_a_tool_that_hangs_is_given_up(tools: pathlib.Path) -> None:
    agent_loopback.script(tools / "nvidia-smi", "exec sleep 20\n")
    with pytest.raises(nvidia.NoAnswer, match=r"within 0\.2 seconds"):
        nvidia.models(timeout=0.2, proc=tools / "none")


def test_the_meter_tells_mean_and_peak_and_stops_after_a_failure(tmp_path: pathlib.Path) -> None:
    looks = iter([nvidia.used("40, 2048, 15360\n60, 2048, 15360\n"), nvidia.used("100, 1024, 15360\n[N/A], 1, 1")])
    meter = nvidia.Meter(tmp_path / "gpu.txt", measure=lambda: next(looks))
    meter.sample()
    meter.sample()
    said = (tmp_path / "gpu.txt").read_text()
    assert said == "75 % busy on average, 100 % peak; memory 4.0 of 15.0 GiB\n"

    def silent() -> nvidia.Use:
        calls.append(1)
        raise nvidia.NoAnswer("gone")

    calls: list[int] = []
    meter = nvidia.Meter(tmp_path / "other.txt", measure=silent)
    meter.sample()
    meter.sample()
    assert len(calls) == 1
    assert not (tmp_path / "other.txt").exists()
