"""The GPU benchmark, on the CPU and with toy sizes; and what it counts, against counts by hand."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agi_core.models.model_config import ModelConfig
from benchmarks import gpu
from benchmarks.counted import counted


def test_operations_bytes_and_flops_by_hand() -> None:
    """A view costs nothing; the convolution reads image and kernel and writes the result."""
    image, kernel = torch.rand(1, 2, 8, 8), torch.rand(4, 2, 3, 3)
    counts = counted(lambda: F.conv2d(image.transpose(2, 3), kernel, padding=1))
    read_and_written = 4 * (1 * 2 * 64 + 4 * 2 * 9 + 4 * 64)
    assert (counts.operations, counts.bytes, counts.waits) == (1, read_and_written, 0)
    assert counts.flops == 2 * 64 * 4 * 2 * 9


def test_waits_are_counted_but_for_the_optimisers() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())  # on a CPU, it asks for its number of steps

    def step(*, reads: bool) -> None:
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        optimizer.step()
        if reads:
            loss.detach().item()

    assert counted(lambda: step(reads=False)).waits == 0
    assert counted(lambda: step(reads=True)).waits == 1


def test_all_but_the_federation_on_a_cpu(tmp_path: Path) -> None:
    command = ["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", *gpu.PARTS]
    assert gpu.main(command[:-1]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    equality, steps, work, networks = (report[part]["rows"] for part in [*gpu.PARTS][:-1])
    assert [row["network"] for row in equality] == [*gpu.variants((4,))]
    assert all(row["equal"] for row in equality)
    assert [row["step"] for row in steps] == ["plain", "aligned", "cagr", "default", "private", "3-D"]
    assert [row["synchronisations"] for row in steps] == [0] * 6
    assert all(row["ms"] > 0 and row["operations"] > 0 and row["launches"] is None for row in steps)
    assert all(row["slices/s"] > 0 for row in work)
    assert [row["network"] for row in networks] == ["plain", "default"]
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# CPU, one thread, commit ")
    assert all(f"## {part}\n" in text for part in [*gpu.PARTS][:-1])


def test_a_difference_beyond_the_bounds_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "variants", lambda widths: {"plain": ModelConfig(conv="plain", widths=widths)})
    monkeypatch.setattr(gpu, "EQUAL_OUTPUT", -1.0)
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "equality"]) == 1


def test_what_the_time_does_not_allow_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "LIMIT_S", 0.0)
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "equality", "steps"]) == 0
    assert (tmp_path / "gpu.md").read_text().count("the 0 s were over") == 2


@pytest.mark.slow
def test_the_federation_on_a_cpu(tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "federation"]) == 0
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["federation"]["rows"]
    assert row["PSNR dB"] > 0
