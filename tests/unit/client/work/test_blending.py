"""What a site tells of experts: their errors, how far apart two are, and how good a blend is."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agi_core.blend import Blend, Expert
from agi_core.cells import parse_vocabulary
from agi_core.config.load import read_task, task_json
from agi_core.config.schema import EvaluationConfig, Task
from agi_core.errors import AgiError, NotHeldError, PolicyError, ProtocolError
from agi_core.evaluation import evaluate
from agi_core.experts import blend_question, cell_task, packed_together, pair_question, pair_task
from agi_core.metric_table import FAULTY
from agi_core.metrics import mean_over_subjects
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.protocol import ERROR, EVALUATE, RMS_DISAGREEMENT, RMS_ERROR, Reply, Request, Weights, pack
from agi_core.scenario import parse_scenario
from client.site.opened import OpenSite, open_site
from client.work.trainer import answer
from tests.support.moved_heads import write_moved
from tests.support.requests_by_hand import deployed_site, small_task

CPU = torch.device("cpu")
VOCABULARY = parse_vocabulary("T1,T2,PD:any")


@pytest.fixture(scope="module")
def site(ixi_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSite:
    """Of 12 subjects, one of whom validates."""
    return open_site(deployed_site(tmp_path_factory.mktemp("site"), ixi_dir))


def expert(source: str, target: str = "PD", *, seed: int = 0) -> Task:
    return dataclasses.replace(read_task(small_task()[0]), scenario=f"{source}:{target}", reference=source, seed=seed)


def weights_of(task: Task) -> Weights:
    """Of a network that makes something, as no untrained one does."""
    network = Network(task)
    network.set_readout(np.linspace(-0.3, 0.4, len(network.readout)))
    return {name: array.copy() for name, array in network.weights.items()}


def asked(task: Task, weights: Weights, *, question: str) -> Request:
    return Request(
        action=EVALUATE,
        run_id="run",
        round=1,
        nonce="n",
        task=task_json(task),
        subjects=question,
        deadline_s=60,
        weights=pack(weights),
    )


def answered(site: OpenSite, request: Request) -> Reply:
    return answer(site, request, read_task(request.task), device=CPU)


def loaded(task: Task, weights: Weights) -> Network:
    network = Network(task)
    network.load(weights)
    return network


def pair(first: Task, second: Task) -> Request:
    tasks = [first, second]
    weights = packed_together([weights_of(task) for task in tasks])
    return asked(pair_task(tasks, VOCABULARY), weights, question=pair_question(tasks))


def test_the_error_is_that_of_the_validation_subjects(site: OpenSite) -> None:
    task = expert("T1")
    reply = answered(site, asked(task, weights_of(task), question=ERROR))
    scans = site.scans(task)
    slices = [(session, tuple(range(session.shape[0]))) for session in scans.validation]
    reply_slices = dataclasses.replace(task, evaluation=dataclasses.replace(task.evaluation, validation_slices=1000))
    whole = answered(site, asked(reply_slices, weights_of(task), question=ERROR))
    assert (reply.num_examples, whole.num_examples) == (1, 1)
    assert {*reply.metrics} == {RMS_ERROR}
    scores = evaluate(loaded(task, weights_of(task)), slices)
    assert whole.metrics[RMS_ERROR] == reply.metrics[RMS_ERROR]  # of the slices that were asked for first, for life
    (psnr_db,) = [score["psnr_db"] for score in scores.values()]
    assert reply.metrics[RMS_ERROR] == pytest.approx(10 ** (-psnr_db / 20), rel=0.2)  # of four slices, not of all


def test_the_disagreement_needs_no_target(site: OpenSite) -> None:
    first, second = expert("T1", "FLAIR"), expert("T2", "FLAIR", seed=1)
    reply = answered(site, pair(first, second))
    (session,) = site.scans(pair_task([first, second], VOCABULARY)).validation
    makers = [loaded(task, weights_of(task)) for task in (first, second)]
    numbers = np.flatnonzero(session.foreground_fraction >= 0.05)
    numbers = numbers[np.linspace(0, len(numbers) - 1, 4).round().astype(int)]
    images = torch.from_numpy(session.read_block(slice(None), slice(None), slice(None)).astype(np.float32))[numbers]
    shown = [images[:, [channel]] for channel in range(2)]
    made = [maker.predict(its).clamp(0, 1) * (its != 0) for maker, its in zip(makers, shown, strict=True)]
    expected = math.sqrt(float((made[0] - made[1]).double().square().mean()))
    assert expected > 0.01
    assert reply.metrics == {RMS_DISAGREEMENT: pytest.approx(expected, rel=1e-4)}
    assert reply.num_examples == 1


def test_experts_are_compared_in_one_pose(tmp_path: Path) -> None:
    """T1 and PD have the same contrast here, and the head has moved by 6 mm between them."""
    write_moved(tmp_path / "scans", moved_vox={"T1": 3, "T2": 0, "PD": 0}, subjects=10)
    site = open_site(deployed_site(tmp_path, tmp_path / "scans"))
    apart = {}
    for alignment in ("none", "affine"):
        model = ModelConfig(conv="plain", widths=(4, 8), prior="cubic", alignment=alignment)
        tasks = [dataclasses.replace(expert(source, "T2"), model=model) for source in ("T1", "PD")]
        networks = [Network(task) for task in tasks]
        for network in networks:
            network.set_readout(np.eye(len(network.readout))[1])  # it copies its source
        weights = packed_together([network.weights for network in networks])
        request = asked(pair_task(tasks, VOCABULARY), weights, question=pair_question(tasks))
        apart[alignment] = answered(site, request).metrics[RMS_DISAGREEMENT]
    assert apart["none"] > 0.1
    assert apart["affine"] < 0.4 * apart["none"]  # what is left lies at the edge of the head


def blend(first: Task, second: Task, *weights: float) -> Request:
    """Of the cell T1,T2:PD."""
    tasks = [first, second]
    packed = packed_together([weights_of(task) for task in tasks])
    task = cell_task(tasks, parse_scenario("T1,T2:PD"))
    return asked(task, packed, question=blend_question(tasks, weights))


def test_a_blend_is_scored_on_all_subjects_as_one_model(ixi_dir: Path, tmp_path: Path) -> None:
    """On those that a run may ask for."""
    site = open_site(deployed_site(tmp_path, ixi_dir, rules="policy: {minimum_subjects: 1}\n"))
    few = EvaluationConfig(max_subjects=2)
    first = dataclasses.replace(expert("T1"), evaluation=few)
    second = dataclasses.replace(expert("T2", seed=1), evaluation=few)
    request = blend(first, second, 0.25, 0.75)
    reply = answered(site, request)
    parts = [Expert(loaded(task, weights_of(task)), (k,), (k + 0.5) / 2, k) for k, task in enumerate((first, second))]
    sessions = [(session, None) for session in site.scans(read_task(request.task)).everybody]
    scores = evaluate(Blend(tuple(parts), 1, None), sessions)
    assert reply.num_examples == len(scores) == 2
    assert reply.metrics == pytest.approx({**mean_over_subjects(scores.values()), FAULTY: 0.0}, rel=1e-6)
    alone = evaluate(Blend((dataclasses.replace(parts[1], weight=1.0),), 1, None), sessions)
    assert reply.metrics["psnr_db"] != pytest.approx(mean_over_subjects(alone.values())["psnr_db"], rel=1e-3)


def test_an_expert_is_named_with_the_reference_that_it_had_where_nobody_chose_one(site: OpenSite) -> None:
    tasks = [dataclasses.replace(expert(source), reference=None) for source in ("T1", "T2")]
    assert blend_question(tasks, [0.5, 0.5]) == "blend T1:PD@T1*0.5 T2:PD@T2*0.5"
    assert answered(site, pair(*tasks)).metrics


@pytest.mark.parametrize(
    ("question", "cause"),
    [
        ("blend", "no parts of 1"),
        ("blend T1:PD@T1*0.5 T2:PD@T2*0.4", "no parts of 1"),
        ("blend T1:PD@T1*1.5 T2:PD@T2*-0.5", "no parts of 1"),
        ("blend T1:PD@T1*nan T2:PD@T2*0.5", "no parts of 1"),
        ("blend T1:PD@T1 T2:PD@T2", "no parts of 1"),
        ("blends T1:PD@T1*0.5 T2:PD@T2*0.5", "no blend"),
        ("blend T1:PD@T1*0.5 FLAIR:PD@FLAIR*0.5", r"do not make T1,T2:PD"),
        ("blend T1:PD@T1*0.5 T1:T2@T1*0.5", r"do not make T1,T2:PD"),
        ("blend T1,T2:PD@T1*1.0", "model hash"),
    ],
)
def test_a_malformed_blend_is_refused(site: OpenSite, question: str, cause: str) -> None:
    request = blend(expert("T1"), expert("T2"), 0.5, 0.5)
    with pytest.raises(AgiError, match=cause):
        answered(site, dataclasses.replace(request, subjects=question))


@pytest.mark.parametrize(
    ("question", "cause"),
    [
        ("disagreement T1:PD@T1", "names 1 experts"),
        ("disagreements T1:PD@T1 T2:PD@T2", "names 2 experts"),
        ("disagreement T1:PD@T1 T1:PD@T1", "do not see the modalities"),
        ("disagreement T1:PD@T1 T3:PD@T3", "do not see the modalities|model hash"),
        ("disagreement T1:PD@T1 T2:PD@T1", "is no source of"),
        ("disagreement T1:PD@T1 nothing", "is not the name"),
    ],
)
def test_a_malformed_pair_is_refused(site: OpenSite, question: str, cause: str) -> None:
    request = pair(expert("T1"), expert("T2"))
    with pytest.raises(AgiError, match=cause):
        answered(site, dataclasses.replace(request, subjects=question))


def test_weights_of_another_model_are_refused(site: OpenSite) -> None:
    request = pair(expert("T1"), expert("T2"))
    with pytest.raises(ProtocolError):
        answered(site, dataclasses.replace(request, weights=pack(weights_of(expert("T1")))))


@pytest.mark.parametrize(
    ("question", "cause"),
    [
        (ERROR, "errors of experts have no noise"),
        ("disagreement", "errors of experts have no noise"),
        ("blend", "all subjects tells of these"),
    ],
)
def test_a_site_that_trains_privately_tells_nothing(ixi_dir: Path, tmp_path: Path, question: str, cause: str) -> None:
    rules = "privacy: {ledger: l/l.jsonl, ledger_head: h/h.json, subjects: 8, epsilon: 8, delta: 1e-5}\n"
    site, first, second = open_site(deployed_site(tmp_path, ixi_dir, rules=rules)), expert("T1"), expert("T2")
    requests = {
        ERROR: asked(first, weights_of(first), question=ERROR),
        "disagreement": pair(first, second),
        "blend": blend(first, second, 0.5, 0.5),
    }
    with pytest.raises(PolicyError, match=cause):
        answered(site, requests[question])


def test_a_site_takes_part_in_what_it_offers_alone(ixi_dir: Path, tmp_path: Path) -> None:
    path = deployed_site(tmp_path, ixi_dir)
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, T2]"))
    site, task = open_site(path), expert("T1")
    with pytest.raises(NotHeldError, match=r"does not offer PD \(data.modalities: T1, T2\)"):
        answered(site, asked(task, weights_of(task), question=ERROR))
    with pytest.raises(NotHeldError, match=r"does not offer PD \(data.modalities: T1, T2\)"):
        answered(site, blend(task, expert("T2"), 0.5, 0.5))
    assert answered(site, pair(task, expert("T2"))).metrics
