"""The GPU benchmark, on the CPU and with toy sizes; and what it counts, against counts by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agi_core.models.model_config import ModelConfig
from benchmarks import gpu
from benchmarks.counted import counted

ROOT = Path(__file__).parents[2]


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


def test_the_short_parts_on_a_cpu(tmp_path: Path) -> None:
    parts = [part for part in gpu.PARTS if part not in ("federation", "options")]
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", *parts]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    equality, steps, work, networks = (report[part]["rows"] for part in parts)
    assert [row["network"] for row in equality] == [*gpu.variants((4,))]
    assert all(row["equal"] and row["repeats"] for row in equality)
    assert [row["step"] for row in steps] == ["plain", "aligned", "cagr", "default", "private", "3-D"]
    assert [row["synchronisations"] for row in steps] == [0] * 6
    assert all(row["ms"] > 0 and row["operations"] > 0 and row["launches"] is None for row in steps)
    assert all(row["slices/s"] > 0 for row in work)
    assert [row["network"] for row in networks] == ["plain", "default"]
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# CPU, one thread, commit ")
    assert all(f"## {part}\n" in text for part in parts)


def test_a_difference_beyond_the_bounds_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "variants", lambda widths: {"plain": ModelConfig(conv="plain", widths=widths)})
    monkeypatch.setattr(gpu, "EQUAL_OUTPUT", -1.0)
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "equality"]) == 1


def test_what_the_time_does_not_allow_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "LIMIT_S", 0.0)
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "equality", "steps"]) == 0
    assert (tmp_path / "gpu.md").read_text().count("the time was over") == 2


def test_equality_and_synthesis_need_torch_alone_and_the_rest_is_named(tmp_path: Path) -> None:
    """In a process of its own, where an import of all other packages fails: here they are loaded already."""
    others = ["nibabel", "scipy", "safetensors", "omegaconf", "monai", "opacus", "flwr", "cryptography", "requests"]
    arguments = ["--device", "cpu", "--toy", "--parts", "synthesis", "steps", "--out", str(tmp_path)]
    without = f"import sys; sys.modules.update(dict.fromkeys({others})); from benchmarks import gpu; gpu.equality"
    ran = subprocess.run(
        [sys.executable, "-c", f"{without}; sys.exit(gpu.main({arguments}))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| plain | " in ran.stdout
    assert "steps: this Python has no package safetensors" in ran.stdout


@pytest.mark.slow  # Dynamo takes seconds
def test_options_on_a_cpu(tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "options"]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["options"]["rows"]
    assert [row["option"] for row in rows] == ["deterministic"] * 2 + ["compile"] * 3
    assert all(row["ms"] > 0 and row["times without"] > 0 for row in rows)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_the_federation_on_a_cpu(tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--toy", "--out", str(tmp_path), "--parts", "federation"]) == 0
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["federation"]["rows"]
    assert row["PSNR dB"] > 0
