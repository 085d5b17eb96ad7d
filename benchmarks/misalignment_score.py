"""Scores of a network under the recorded moves."""

import torch
from torch import Tensor

from agi_core.metrics import SubjectScore
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.network import Network
from agi_core.prediction import predict_whole, slabs
from agi_core.scenario import parse_scenario
from benchmarks.misalignment_data import move_of, registered, test_inputs
from benchmarks.misalignment_setup import Setup
from benchmarks.misalignment_truth import offset_errors, read_poses, true_offsets


def score(setup: Setup, network: Network, *, data: str) -> dict[str, dict[str, dict[str, float]]]:
    """{test: {subject: metrics of the whole volume}}, with errors of the recovered offsets where the true ones are
    known, and `psnr_registered_db` against a target registered to the prediction with `register_target`."""
    moved = parse_scenario(setup.scenario).sources.index(setup.moved)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    alignment = network.module.alignment
    poses = read_poses(setup.data_dir / "truth.csv") if data == "native" and setup.moved == "T1" else {}
    for session, test, volumes, target, foreground in test_inputs(setup, data):
        sources = slabs(volumes, range(len(volumes)), network.neighbours)
        parts = torch.split(torch.arange(len(sources)), 8)
        prediction = torch.cat([predict_whole(network, sources[part], box=session.source_box) for part in parts])
        row = scored(prediction, target, foreground)
        if setup.register_target:
            laid = registered(target[:, 0].numpy(), onto=prediction[:, 0].numpy(), session=session)
            row["psnr_registered_db"] = scored(prediction, torch.from_numpy(laid)[:, None], foreground)["psnr_db"]
        if isinstance(alignment, GroupAlignment) and session.subject_id in poses and test.kind != "elastic":
            true = true_offsets(move_of(test, session), poses[session.subject_id], session.grid)
            found = torch.cat([alignment.offsets(sources[part])[:, moved, -2:] for part in parts])
            row |= offset_errors(found.numpy(), true, head=foreground[:, 0].numpy(), spacing_mm=session.spacing_mm)
        scores.setdefault(str(test), {})[session.subject_id] = row
    return scores


def scored(prediction: Tensor, target: Tensor, foreground: Tensor) -> dict[str, float]:
    """Metrics of one volume, slices first."""
    subject_score = SubjectScore()
    subject_score.add(prediction, target, foreground)
    return subject_score.result()
