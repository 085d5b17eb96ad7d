"""Scores of predictors on hand-made cache entries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agi_core.config.load import load_config
from agi_core.evaluation import disagreement, evaluate, squared_error
from agi_core.metric_table import psnr_db
from agi_core.metrics import SubjectScore
from agi_core.network import Network
from tests.support.cache_entries import write_entry
from tests.support.predictors import Made
from tests.support.small_data import SMALL
from tests.support.smooth_images import texture


def test_evaluate_scores_all_sessions_of_a_subject_and_clips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = rng.random((2, 3, 2, 13, 18), dtype=np.float32).astype(np.float16).astype(np.float32)  # two sessions
    sessions = [write_entry(tmp_path / str(i) / "IXI001", volumes[i]) for i in range(2)]
    done: list[tuple[int, int]] = []
    scores = evaluate(
        Made(lambda sources: 1.5 * sources),
        [(s, None) for s in sessions],
        on_session=lambda *counts: done.append(counts),
    )
    assert done == [(1, 2), (2, 2)]
    mean_square = float(np.mean((np.clip(1.5 * volumes[:, :, 0], 0, 1).astype(np.float64) - volumes[:, :, 1]) ** 2))
    assert set(scores) == {"IXI001"}
    assert scores["IXI001"]["psnr_db"] == pytest.approx(psnr_db(mean_square), abs=1e-6)


def test_evaluate_scores_chosen_slices_only(tmp_path: Path) -> None:
    volumes = np.zeros((4, 2, 16, 16), np.float32)
    volumes[2, 1] = 0.5  # the model below is wrong in this slice alone
    session = write_entry(tmp_path / "IXI002", volumes)
    all_slices = evaluate(Made(lambda x: x[:, :1]), [(session, None)])["IXI002"]["mae"]
    chosen = evaluate(Made(lambda x: x[:, :1]), [(session, (0, 3))])["IXI002"]["mae"]
    assert all_slices == pytest.approx(0.125)
    assert chosen == 0


def test_a_networks_scores_are_computed_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches the volumes gets them on the CPU."""

    class Elsewhere(Network):
        def predict(self, sources: Tensor) -> Tensor:
            return sources[:, :1]

    class Score(SubjectScore):
        def add(self, *images: Tensor) -> None:
            scored.extend(image.device.type for image in images)

    scored, watched = list[str](), list[str]()
    monkeypatch.setattr("agi_core.evaluation.SubjectScore", Score)
    network = Elsewhere(load_config(None, overrides={"scenario": "T1:PD"}, assignments=SMALL))
    network.device = torch.device("meta")
    session = write_entry(tmp_path / "IXI001", np.ones((3, 2, 16, 16), np.float32))
    evaluate(network, [(session, None)], on_volume=lambda _, *images: watched.extend(i.device.type for i in images))
    assert (scored, watched) == (["meta"] * 3, ["cpu"] * 3)


@pytest.mark.parametrize("volumetric", [False, True])
def test_disagreement_is_that_of_the_chosen_slices_whatever_the_target(tmp_path: Path, volumetric: bool) -> None:
    volumes = np.random.default_rng(0).uniform(0.1, 0.9, (12, 3, 13, 18)).astype(np.float16).astype(np.float32)
    session, chosen, shown = write_entry(tmp_path / "IXI001", volumes), (0, *range(2, 12)), list[int]()

    def second_source(sources: Tensor) -> Tensor:
        shown.append(len(sources))
        return sources[:, 1:2]

    first = Made(second_source, volumetric=volumetric)
    second = Made(lambda sources: sources[:, [2, 0]].mean(dim=1, keepdim=True), volumetric=volumetric)
    found = disagreement(first, second, [(session, chosen)])
    apart = volumes[chosen, 1] - volumes[chosen, :][:, [2, 0]].mean(axis=1)
    assert found == {"IXI001": pytest.approx(float((apart.astype(np.float64) ** 2).mean()), rel=1e-5)}
    assert shown == ([12] if volumetric else [8, 3])  # a volume once


def test_where_a_blend_would_leave_the_image_to_the_other_no_difference_counts(tmp_path: Path) -> None:
    volumes = np.full((4, 3, 16, 16), 0.5, np.float32)
    session = write_entry(tmp_path / "IXI001", volumes)
    rows = torch.arange(16)[:, None].expand(16, 16)

    def made(value: float, gap: torch.Tensor) -> Made:
        return Made(lambda its: torch.stack([torch.full_like(its[:, 0], value), gap.expand(len(its), 16, 16)], 1))

    first, second = made(0.25, (rows < 4).float()), made(0.5, (rows >= 12).float())
    (found,) = disagreement(first, second, [(session, range(4))]).values()
    assert found == pytest.approx(0.0625)
    everywhere = made(0.5, torch.ones(16, 16))
    assert disagreement(first, everywhere, [(session, range(4))]) == {}


def test_a_3d_network_sees_whole_volumes_whichever_slices_are_scored(tmp_path: Path) -> None:
    """A predictor that puts out the mean over all slices that it sees."""
    volumes = np.random.default_rng(0).random((6, 2, 16, 16), dtype=np.float32).astype(np.float16).astype(np.float32)
    session = write_entry(tmp_path / "IXI004", volumes)
    through = Made(lambda volume: volume.mean(dim=0, keepdim=True).repeat(len(volume), 1, 1, 1), volumetric=True)
    mean = volumes[:, 0].mean(axis=0)
    for indices in (None, (4, 1)):
        errors = np.abs(volumes[list(indices or range(6)), 1] - mean)
        assert evaluate(through, [(session, indices)])["IXI004"]["mae"] == pytest.approx(errors.mean(), abs=1e-6)


def test_evaluate_shows_a_network_the_neighbours(tmp_path: Path) -> None:
    """A model that copies the slice above scores as the wrong slice; one that copies the middle makes no error."""
    volumes = np.zeros((4, 2, 16, 16), np.float32)
    volumes[:] = np.array([0.1, 0.2, 0.4, 0.8], np.float32)[:, None, None, None]
    session = write_entry(tmp_path / "IXI002", volumes)
    middle = evaluate(Made(lambda x: x[:, :1, 1], neighbours=1), [(session, None)])["IXI002"]["mae"]
    above = evaluate(Made(lambda x: x[:, :1, 2], neighbours=1), [(session, None)])["IXI002"]["mae"]
    assert middle == 0
    assert above == pytest.approx((0.1 + 0.2 + 0.4 + 0.4) / 4, abs=1e-3)


def test_the_squared_error_is_taken_where_training_takes_the_loss(tmp_path: Path) -> None:
    """Of a network that copies its source, and a target that is the source after the head has moved."""
    image = texture(96, 96, detail=10)[0, 0].numpy()
    volumes = np.stack([image, np.roll(image, 5, axis=0)])[None].repeat(3, axis=0).astype(np.float16)
    session = write_entry(tmp_path / "IXI005", volumes.astype(np.float32))
    errors = {}
    for aligned in ("false", "true"):
        settings = [*SMALL, "scenario='T2:PD'", "reference=T2", "model.prior=cubic", "model.alignment=affine"]
        task = load_config(None, overrides={}, assignments=[*settings, f"training.align_target={aligned}"]).task
        network = Network(task)
        readout = np.zeros(len(network.readout))
        readout[1] = 1  # the monomial of degree 1
        network.set_readout(readout)
        (errors[aligned],) = squared_error(network, [(session, (0, 2))]).values()
    apart = (volumes[:, 0] - volumes[:, 1].astype(np.float64))[[0, 2]]
    assert errors["false"] == pytest.approx(float((apart**2).mean()), rel=1e-4)
    assert errors["true"] < 0.02 * errors["false"]


def test_a_volume_is_compared_as_a_whole_there(tmp_path: Path) -> None:
    """The head has moved through the slices, so that no single one shows where to."""
    volume = texture(48, 48, 48, detail=8)[0, 0].numpy()
    volumes = np.stack([volume, np.roll(volume, 3, axis=0)], axis=1).astype(np.float16)
    session = write_entry(tmp_path / "IXI006", volumes.astype(np.float32))
    settings = ["scenario='T2:PD'", "reference=T2", "model.dims=3", "model.widths=[4,4]", "model.conv=plain"]
    settings += ["model.prior=cubic", "model.alignment=affine", "grid.crop=[48,48,48]"]
    errors = {}
    for aligned in ("false", "true"):
        task = load_config(None, overrides={}, assignments=[*settings, f"training.align_target={aligned}"]).task
        network = Network(task)
        readout = np.zeros(len(network.readout))
        readout[1] = 1  # the monomial of degree 1
        network.set_readout(readout)
        (errors[aligned],) = squared_error(network, [(session, range(12, 36, 4))]).values()
    apart = (volumes[:, 0] - volumes[:, 1].astype(np.float64))[12:36:4]
    assert errors["false"] == pytest.approx(float((apart**2).mean()), rel=1e-4)
    assert errors["true"] < 0.05 * errors["false"]
