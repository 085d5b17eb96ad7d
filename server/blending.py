"""The blends of a run over a vocabulary: asks sites for the errors of trained cells and how far apart each two are
(`agi_core.blend`), and writes `blends.json`; then asks for the scores of the blends."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from agi_core.blend import blend_weights, pose_of
from agi_core.cell_plan import Plan
from agi_core.cells import BLENDS, folder_of, parse_vocabulary
from agi_core.config.schema import RunConfig, Task
from agi_core.experts import blend_question, cell_task, packed_together, pair_question, pair_task
from agi_core.host import atomic
from agi_core.metric_table import METRIC_NAMES
from agi_core.protocol import ERROR, EVALUATE, RMS_DISAGREEMENT, RMS_ERROR, Reply, Weights
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_weights
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import BlendSolved, BlendTested, RunStarted
from agi_core.run.scores import Scores
from agi_core.scenario import Scenario, parse_scenario
from agi_core.study import WholeStudy
from server.collector import Collector
from server.evaluation import site_scores, suppressed_sites
from server.exchange import Exchange
from server.run_state import RunState
from server.update_gate import judge_figures


class Blending:
    """The blends of one run, whose cells have been trained."""

    def __init__(
        self,
        grid: Grid,
        run_dir: Path,
        *,
        strikes_path: Path,
        key: Ed25519PrivateKey,
        study: WholeStudy | None = None,
    ) -> None:
        """`strikes_path`: see `server.strikes`. `key` signs the requests. `study`: as deployed sites know the run."""
        self._grid, self._run_dir, self._strikes_path, self._key = grid, run_dir, strikes_path, key
        self._study, config = study, run_folder.open_existing(run_dir)
        self._vocabulary, self._federation = parse_vocabulary(config.scenario), config.federation
        self._offers = {site: config.federation.offers[site] for site in config.federation.sites}
        folders = {cell: folder_of(run_dir, cell) for cell in self._vocabulary.cells}
        self._trained = {
            cell: run_folder.open_existing(folder)
            for cell, folder in folders.items()
            if (folder / "config.yaml").is_file()
        }
        self._events = EventLog.going_on(run_dir)
        self._awaited = set[str]()  # no site is waited for twice
        # one expert is in several blends, and so are two
        self._squared_error, self._squared_distance = cache(self._ask_error), cache(self._ask_disagreement)

    def run(self) -> None:
        """Ask, solve, and write `blends.json`.

        Raises:
            RunError: the SuperLink fails, or the disk is full. Nothing is lost: the run asks again when it goes on.
        """
        holders = {cell: config.federation.sites for cell, config in self._trained.items()}
        plan = Plan.of(self._vocabulary, holders, offers=self._offers, local_steps=1)
        blends = {str(cell): self._solve(cell, experts) for cell, experts in plan.blends.items()}
        atomic.write_json(self._run_dir / BLENDS, blends)

    def test(self) -> None:
        """Have each blend scored, once, by the unseen sites that offer all its modalities; a training site that does
        would have trained the cell.

        Raises:
            RunError: as `run`.
        """
        tested = {event.cell: event.weights for event in events_of(self._run_dir, BlendTested)}
        solved = {event.cell: event.weights for event in events_of(self._run_dir, BlendSolved)}
        for cell, weights in solved.items():
            if tested.get(cell) != weights:
                said, scores = self._ask_scores(parse_scenario(cell), weights)
                self._events.append(BlendTested(cell=cell, weights=weights, said=said, scores=scores))

    def _ask_scores(self, cell: Scenario, weights: Mapping[str, float]) -> tuple[str, Scores | None]:
        """In words, and as figures where there are any. An expert without weight stays here."""
        unseen, offers = self._federation.unseen_sites, self._federation.offers
        sites = [site for site in unseen if {*cell.modalities} <= {*offers[site]}]
        if not sites:
            *others, last = cell.modalities
            return f"no site holds {', '.join(others)} and {last} together: no score", None
        used = {parse_scenario(expert): weight for expert, weight in weights.items() if weight}
        tasks = [self._trained[expert].task for expert in used]
        pose = pose_of(
            (expert.reference(task.reference), not task.training.align_target, weight)
            for (expert, weight), task in zip(used.items(), tasks, strict=True)
        )
        question = blend_question(tasks, [*used.values()])
        replies = self._ask_about([*used], cell_task(tasks, cell, pose=pose), sites, question=question)
        told, suppressed = site_scores(replies), suppressed_sites(replies, METRIC_NAMES)
        words = {site: f"{site} told no figure" for site in sites}
        words |= {site: f"{site} holds its figures back" for site in suppressed}
        words |= {site: f"{score.psnr_db:.2f} dB at {site}" for site, score in told.items()}
        return "; ".join(words.values()), Scores.over({}, told) if told else None

    def _solve(self, cell: Scenario, experts: Sequence[Scenario]) -> dict[str, float]:
        """The weights of the experts of a blend; equal where an error is not known."""
        several, pairs = len(experts) > 1, [*combinations(range(len(experts)), 2)]
        errors = {expert: self._squared_error(expert) for expert in experts} if several else {}
        known = {expert: error for expert, error in errors.items() if error is not None}
        weights, apart, measured = [1 / len(experts)] * len(experts), {}, len(known) == len(errors)
        if several and measured:
            distances = {(i, j): self._squared_distance(experts[i], experts[j]) for i, j in pairs}
            apart = {pair: distance for pair, distance in distances.items() if distance is not None}
            weights = blend_weights([*known.values()], apart)
        solved = dict(zip(map(str, experts), weights, strict=True))
        self._events.append(
            BlendSolved(
                cell=str(cell),
                weights=solved,
                measured=measured,
                errors={str(expert): error for expert, error in known.items()},
                disagreements={f"{experts[i]} {experts[j]}": distance for (i, j), distance in apart.items()},
            )
        )
        return solved

    def _ask_error(self, expert: Scenario) -> float | None:
        config = self._trained[expert]
        if config.privacy.on:
            return None  # it has no noise, so every site would refuse
        replies = self._ask(expert, config, config.federation.sites, self._weights(expert), question=ERROR)
        return _mean_square(replies, RMS_ERROR)

    def _ask_disagreement(self, first: Scenario, second: Scenario) -> float | None:
        """Asked of the sites that offer the sources of both."""
        tasks = [self._trained[expert].task for expert in (first, second)]
        sources = {*first.sources, *second.sources}
        sites = [site for site, offered in self._offers.items() if sources <= {*offered}]
        task = pair_task(tasks, self._vocabulary)
        replies = self._ask_about([first, second], task, sites, question=pair_question(tasks))
        return _mean_square(replies, RMS_DISAGREEMENT)

    def _ask_about(
        self, experts: Sequence[Scenario], task: Task, sites: Sequence[str], *, question: str
    ) -> Mapping[str, Reply]:
        """The replies to a question about several experts, whose weights travel together."""
        config = dataclasses.replace(self._trained[experts[0]], **vars(task))
        weights = packed_together([self._weights(expert) for expert in experts])
        return self._ask(experts[0], config, sites, weights, question=question)

    def _weights(self, expert: Scenario) -> Weights:
        return load_weights(folder_of(self._run_dir, expert))

    def _ask(
        self, expert: Scenario, config: RunConfig, sites: Sequence[str], weights: Weights, *, question: str
    ) -> Mapping[str, Reply]:
        """The replies of those sites that answer, in the name of the expert's run. Sites are asked that did not train
        in it, and the whole run knows the sizes of all."""
        config = dataclasses.replace(config, federation=self._federation)
        run_id = events_of(folder_of(self._run_dir, expert), RunStarted)[0].run_id
        exchange = Exchange(self._grid, self._events, config, run_id=run_id, key=self._key, study=self._study)
        collector = Collector(
            exchange,
            config=config,
            state=RunState({}, run_id),
            events=self._events,
            strikes_path=self._strikes_path,
        )
        missing = [site for site in sites if site not in self._awaited]
        exchange.wait_for(missing, enough=len(missing), round=config.rounds)
        self._awaited.update(missing)
        request = exchange.request(EVALUATE, round=config.rounds, weights=weights, subjects=question)
        return collector.collect(sites, request, judge_figures, quorum=0)


def _mean_square(replies: Mapping[str, Reply], name: str) -> float | None:
    """Over all subjects of all sites that tell the figure; None where none does."""
    told = [(reply.metrics[name], reply.num_examples) for reply in replies.values() if name in reply.metrics]
    subjects = sum(count for _, count in told)
    return math.fsum(count * rms**2 for rms, count in told) / subjects if subjects else None
