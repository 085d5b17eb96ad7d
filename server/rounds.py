"""The rounds of a run: training and aggregation, as often as configured, then the final test and its comparison."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from agi_core.cells import name_of
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import AgiError, RunError
from agi_core.keys import KeyTable, rounds_alone
from agi_core.metric_table import METRIC_NAMES, VALIDATION_METRIC_NAMES
from agi_core.network import Network
from agi_core.protocol import (
    ALL,
    ALONE,
    EVALUATE,
    LAST_LAYER,
    POSES,
    REGRESSION_OF_ALL,
    REGRESSIONS,
    STATISTICS,
    TEST,
    TRAIN,
    VALIDATION,
    Packed,
    Reply,
    Request,
    Weights,
)
from agi_core.run import checkpoint, events, run_folder
from agi_core.run.event_log import EventLog, events_of, read_events
from agi_core.run.initial_weights import as_begun, initial_weights
from agi_core.run.scores import Scores, over_subjects
from agi_core.scenario import parse_scenario
from agi_core.study import WholeStudy
from server import run_state
from server.aggregation import SiteUpdate
from server.collector import Collector, Judge, T
from server.common_prior import judge_statistics, judge_steps, set_common_prior, take_private_step
from server.evaluation import Answered, personal_scores, site_scores, suppressed_sites, validation_scores, worse_at
from server.exchange import Exchange
from server.interval import solve_interval
from server.known_range import learn_range
from server.last_layer import solve_last_layer, solves_last_layer
from server.poses import asks_for_poses, chosen_by, judge_poses
from server.run_state import RunState
from server.secure_sum import SecureSum
from server.server_step import next_weights
from server.styles import judge_last_layers, write_styles
from server.update_gate import judge_figures, judge_updates

NO_PUBLIC_PRIOR = (
    "the initial weights hold no public prior that a private step could start from, so no site was asked, and the part"
    " of the budget that is kept for it stays unspent (initial_weights=FILE of python -m agi_core pretrain has one;"
    " with model.prior=none nothing is kept)"
)


class Rounds:
    """The rounds that a run still has to do. A process that is killed at any moment loses the round it was in: the next
    one goes on from the last checkpoint."""

    def __init__(
        self,
        grid: Grid,
        run_dir: Path,
        *,
        strikes_path: Path,
        key: Ed25519PrivateKey,
        study: WholeStudy | None = None,
    ) -> None:
        """`strikes_path`: see `server.strikes`. `key` signs the requests. `study`: that of which the run is a cell."""
        self._run_dir, self._config = run_dir, run_folder.open_existing(run_dir)
        self._study = study
        saved = run_state.load(run_dir)
        self._state, self._events = saved or _new_run(run_dir, self._config, study)
        if saved and self._config.engine == DEPLOYMENT:
            self._events.append(events.RunResumed(round=self._state.round))
        self._grid, self._key, self._strikes_path = grid, key, strikes_path
        self._ask_by(self._config)

    def _ask_by(self, config: RunConfig) -> None:
        """Whatever is asked from now on follows this configuration."""
        self._config = config
        self._exchange = Exchange(
            self._grid, self._events, config, run_id=self._state.run_id, key=self._key, study=self._study
        )
        self._collector = Collector(
            self._exchange, config=config, state=self._state, events=self._events, strikes_path=self._strikes_path
        )
        self._secure_sum = SecureSum(
            self._exchange, self._collector, config=self._config, state=self._state, events=self._events
        )

    def run(self) -> None:
        """All remaining rounds, then the final test, how far to trust the model, what it is compared with, and what
        each site reaches alone.

        Raises:
            RunError: fewer sites than the quorum connected or answered, or the state cannot be saved. The finished
                rounds are saved.
        """
        with self._pausing():
            begins = not self._state.round
            if begins and self._config.engine == DEPLOYMENT and self._unanswered(events.PosesMeasured):
                self._choose_poses()
            asks = begins and self._config.model.prior != "none" and self._unanswered(events.PriorSolved)
            if asks:
                self._solve_prior()
            first = self._state.round + 1
            for round in range(first, self._config.rounds + 1):
                told, updates = self._train(round, is_first=round == first and not asks)
                with self._saving():
                    self._aggregate(round, told, updates)
            if not self._state.tested:
                with self._saving():
                    self._test()
            if not self._config.privacy.on:  # what sites tell of errors and sources has no noise
                self._learn_once(events.IntervalSolved, solve_interval)
                self._learn_once(events.RangeLearnt, learn_range)
            if self._config.engine == DEPLOYMENT and not self._config.privacy.on:
                if self._config.personal == "head" and not events_of(self._run_dir, events.LastLayersShared):
                    self._ask_for_last_layers()
                if self._config.model.prior != "none" and not self._unanswered(events.PriorSolved):
                    self._ask_for_regressions()
                self._train_alone()
                run_state.save(self._run_dir, self._state, self._events)

    def _unanswered(self, kind: type[events.PosesMeasured | events.PriorSolved]) -> bool:
        """Whether no site has answered a question of before round 1; nobody may have agreed to the study yet. What came
        of an answer before the run began anew was lost with the first checkpoint."""
        happened = [event for _, event in read_events(self._run_dir)]
        begun = max(number for number, event in enumerate(happened) if isinstance(event, events.RunStarted))
        return not any(isinstance(event, kind) and event.sites for event in happened[begun:])

    def _everybody(self, request: Request) -> list[str]:
        """The training sites that are connected. The first exchange of a run waits for all.

        Raises:
            RunError: fewer sites than the quorum are connected. They are asked when the run goes on.
        """
        federation = self._config.federation
        sites, needed = federation.sites, federation.quorum or len(federation.sites)
        there = self._exchange.wait_for(sites, enough=len(sites), round=0)
        if len(there) < needed:
            self._exchange.note_absent([site for site in sites if site not in there], request)
            raise RunError(f"{len(there)} of {len(sites)} sites are connected, and {needed} are needed")
        return [*there]

    def _choose_poses(self) -> None:
        """Let the sites' scans choose the reference, and whether the target is aligned, where nobody has.

        Raises:
            RunError: fewer sites than the quorum are connected.
        """
        if not asks_for_poses(self._config):
            return
        request = self._exchange.request(EVALUATE, round=0, weights=self._state.weights, subjects=POSES)
        judge = partial(judge_poses, scenario=parse_scenario(self._config.scenario))
        told = self._collector.collect(self._everybody(request), request, judge, quorum=0)
        config, chosen = chosen_by(self._config, told)
        run_folder.write_config(self._run_dir, config)
        self._events.append(events.PosesMeasured(sites=told, chosen=chosen))
        run_state.save(self._run_dir, self._state, self._events)
        self._ask_by(config)

    def _solve_prior(self) -> None:
        """Solve the model's prior from what the sites tell of their training subjects; it stays where nobody does, or
        fewer than the aggregation needs, and a run that pauses before its first round asks again: they may not have
        agreed to the study yet. In a private run it is the public one of the initial weights, moved by a private step.

        Raises:
            RunError: fewer sites than the quorum are connected. They are asked when the run goes on.
        """
        state, network, why = self._state, Network(self._config), ""
        network.load(state.weights)
        request = self._exchange.request(EVALUATE, round=0, weights=state.weights, subjects=STATISTICS)
        collect = partial(self._collector.collect, self._everybody(request), request, quorum=0)
        count = network.module.prior_count
        if not self._config.privacy.on:
            told = [*(statistics := collect(partial(judge_statistics, features=count)))]
            try:
                if told:
                    set_common_prior(network, statistics, federation=self._config.federation)
            except RunError as error:
                silent = [site for site in self._config.federation.sites if site not in told]
                told, why = [], f"{', '.join(silent)} told no usable statistics, and {error}"
        elif network.prior_gram is not None:
            if steps := collect(partial(judge_steps, features=count)):
                take_private_step(network, steps, privacy=self._config.privacy)
            told = [*steps]
        else:
            told, why = [], NO_PUBLIC_PRIOR
        state.weights = {name: array.copy() for name, array in network.weights.items()}
        with self._saving():
            self._events.append(events.PriorSolved(sites=told, why=why))

    def _train(self, round: int, *, is_first: bool) -> tuple[dict[str, SiteUpdate], list[SiteUpdate]]:
        """What each site told, with the validation of the weights that were sent, and the updates to aggregate. These
        are the same; of a secure sum it is the one that stands for all.

        The first round of this process waits for all sites. Later, a site that was late joins, and a site that sits out
        is left alone.
        """
        self._events.append(events.RoundStarted(round=round))
        federation = self._config.federation
        sites = federation.sites if is_first else self._state.expected(federation.sites)
        if federation.secure_sum:
            told, mean = self._secure_sum.train(sites, round=round, wait_for_all=is_first)
            return told, [mean]
        updates = self._collector.collect(
            sites,
            self._exchange.request(TRAIN, round=round, weights=self._state.weights),
            partial(judge_updates, config=self._config),
            quorum=federation.quorum,
            wait_for_all=is_first,
        )
        return updates, [*updates.values()]

    def _aggregate(self, round: int, told: Mapping[str, SiteUpdate], updates: Sequence[SiteUpdate]) -> None:
        """The next weights from the updates, or back to the best model."""
        state = self._state
        if self._note_validation(told, round=round - 1):
            moved, state.velocity = next_weights(
                state.weights, updates, velocity=state.velocity, config=self._config.federation
            )
            frozen = KeyTable.of(self._config, {name: array.ndim for name, array in moved.items()}).frozen
            kept = {name: state.weights[name] for name in frozen}  # what came back may be rounded to float16
            state.weights = {**moved, **kept}
        else:
            state.weights, state.velocity = checkpoint.load_weights(self._run_dir, best=True), {}
        state.round = round
        losses, seconds = (_by_site(name, told) for name in ("train_loss", "seconds"))
        subjects = {site: update.num_examples for site, update in told.items() if update.num_examples}
        self._events.append(
            events.RoundFinished(round=round, sites=[*told], train_loss=losses, seconds=seconds, subjects=subjects)
        )

    def _test(self) -> None:
        """The final test of the last model, or of the best one if the last is much worse: training sites on their test
        subjects, unseen sites on all of theirs."""
        state, training, unseen = self._state, self._config.federation.sites, self._config.federation.unseen_sites
        evaluate, collect = partial(self._exchange.request, EVALUATE, round=state.round), self._collector.collect
        last = events_of(self._run_dir, events.RoundFinished)[-1]
        recent = [*last.sites, *unseen]  # a site that is long gone is not waited for
        self._exchange.wait_for(recent, enough=len(recent), round=state.round)
        replies = collect(training, evaluate(weights=state.weights, subjects=VALIDATION), judge_figures, quorum=1)
        validation_db = {site: its.psnr_db for site, its in validation_scores(replies).items()}
        if went_back := not self._note_validation(replies, round=state.round):
            state.weights = checkpoint.load_weights(self._run_dir, best=True)
            validation_db = {**state.best.sites} if state.best else {}
        if solves_last_layer(self._config):
            is_best = went_back or (state.best is not None and state.best.round == state.round)
            self._solve_last_layer([*replies], validation_db, is_best=is_best)
        tested = collect(
            self._in_time(replies), evaluate(weights=state.weights, subjects=TEST), judge_figures, quorum=1
        )
        tested_unseen = collect(unseen, evaluate(weights=state.weights, subjects=ALL), judge_figures, quorum=0)
        scores, personal = Scores.over(site_scores(tested), site_scores(tested_unseen)), personal_scores(tested)
        suppressed = suppressed_sites({**tested, **tested_unseen}, METRIC_NAMES)
        self._events.append(
            events.ModelTested(
                scores=scores,
                personal=Scores.over(personal, {}) if personal else None,
                suppressed=suppressed,
                best=state.best,
            )
        )
        state.tested = True

    def _in_time(self, sites: Iterable[str]) -> list[str]:
        """Those that have not just missed a deadline: these are not waited for again."""
        return [site for site in sites if site not in self._collector.late]

    def _solve_last_layer(self, sites: Sequence[str], validation_db: Mapping[str, float], *, is_best: bool) -> None:
        """Give the last model the last layer that fits all sites, if it is no worse (`server.last_layer`). `is_best`:
        it is the best by validation, or the run went back to that."""
        state, trained = self._state, self._state.weights

        def ask(sites: Sequence[str], *asked: Any) -> dict[str, Any]:
            return self._ask(self._in_time(sites), *asked)

        state.weights, validated, solved = solve_last_layer(
            self._config, trained, validation_db=validation_db, sites=sites, ask=ask
        )
        self._events.append(solved)
        if not solved.why:
            keys = KeyTable.of(self._config, {name: array.ndim for name, array in trained.items()})
            state.trained_layer = {name: trained[name] for name in keys.personal}
            state.best = None if is_best else state.best  # its layer is another now
            mean = over_subjects(validated)
            candidate = events.ModelValidated(round=state.round, mean=mean, sites=validated)
            state.consider_best(candidate, of=len(self._config.federation.sites))

    def _ask(
        self,
        sites: Sequence[str],
        question: str,
        weights: Weights,
        judge: Judge[T],
        *,
        of_site: Mapping[str, Packed] | None = None,
    ) -> dict[str, T]:
        """What the judge accepts of the sites' answers to a question about weights, however few answer."""
        request = self._exchange.request(EVALUATE, round=self._state.round, weights=weights, subjects=question)
        return self._collector.collect(sites, request, judge, quorum=0, of_site=of_site)

    def _learn_once(
        self, kind: type[events.IntervalSolved | events.RangeLearnt], learn: Callable[..., events.Event]
    ) -> None:
        """Have the sites that answered the test say how far to trust the tested model (`server.interval`,
        `server.known_range`)."""
        if events_of(self._run_dir, kind):
            return
        weights, sites = self._state.weights, self._tested_sites()
        self._events.append(learn(self._run_dir, self._config, weights, sites=sites, ask=self._ask))
        run_state.save(self._run_dir, self._state, self._events)

    def _tested_sites(self) -> list[str]:
        """The training sites that answered the test, whether they told figures or hold them back."""
        tested = events_of(self._run_dir, events.ModelTested)[-1]
        return [site for site in self._config.federation.sites if site in (*tested.scores.sites, *tested.suppressed)]

    def _ask_for_regressions(self) -> None:
        """Have the sites that told test figures score the prior without its network, and each its own
        (`client.work.regressions`). A site that does not lacks these figures and nothing else. A simulation does this
        without messages (`simulations.baselines`)."""
        if self._has_baseline("regression_pooled", "regression_per_site"):
            return
        tested = events_of(self._run_dir, events.ModelTested)[-1].scores
        weights = {**self._state.weights, **self._state.trained_layer}  # whose prior is a regression by itself
        told = self._ask([*tested.sites], REGRESSIONS, weights, judge_figures)
        told_unseen = self._ask([*tested.unseen_sites], REGRESSION_OF_ALL, weights, judge_figures)
        self._note_baseline("regression_pooled", Scores.over(site_scores(told), site_scores(told_unseen)))
        self._note_baseline("regression_per_site", Scores.over(personal_scores(told), {}))
        run_state.save(self._run_dir, self._state, self._events)

    def _has_baseline(self, *names: str) -> bool:
        return any(event.name in names for event in events_of(self._run_dir, events.BaselineFinished))

    def _note_baseline(self, name: str, scores: Scores) -> None:
        """Nothing where nobody told a figure."""
        if scores.sites or scores.unseen_sites:
            self._events.append(events.BaselineFinished.of(name, scores))

    def _train_alone(self) -> None:
        """The sites that told test figures train alone for as many steps as the run has, from its first weights
        (`client.work.alone`). A site that does not, or is late, lacks this figure and nothing else. A simulation does
        this without messages (`simulations.baselines`)."""
        if self._has_baseline("local_only"):
            return
        try:
            weights = initial_weights(as_begun(self._config, self._run_dir))
        except AgiError as error:
            self._events.append(events.Warned(text=f"no site has trained alone: {error}"))
            return
        asked, answered = [*events_of(self._run_dir, events.ModelTested)[-1].scores.sites], dict[str, Reply]()
        for n in range(1 + rounds_alone(self._config)):  # a slow site trains one round for each, and is scored last
            round = self._state.round + 1 + n  # each its own request
            request = self._exchange.request(EVALUATE, round=round, weights=weights, subjects=ALONE)
            replies = self._collector.collect(asked, request, judge_figures, quorum=0)
            asked = [site for site, reply in replies.items() if not reply.metrics and not reply.suppressed]
            answered |= replies
            if not asked:
                break
        self._note_baseline("local_only", Scores.over(site_scores(answered), {}))

    def _ask_for_last_layers(self) -> None:
        """Have the sites that answered the test tell their own last layers, as far as they share them. A simulated site
        keeps its own in the run's folder anyway."""
        network = Network(self._config)
        network.load(self._state.weights)
        judge = partial(judge_last_layers, common=network.readout)
        layers = self._ask(self._tested_sites(), LAST_LAYER, self._state.weights, judge)
        write_styles(self._run_dir, layers, network=network, task=self._config)
        left_out = [site for site in self._config.federation.sites if site not in layers]
        self._events.append(events.LastLayersShared(sites=[*layers], left_out=left_out))
        run_state.save(self._run_dir, self._state, self._events)

    def _note_validation(self, answers: Answered, *, round: int) -> bool:
        """Note the validation of the model after `round`, which travelled in these answers. False: the model must go,
        because a majority of all sites report it much worse than the best one. Private figures are too noisy for that
        judgement.
        """
        state, scores, sites = self._state, validation_scores(answers), len(self._config.federation.sites)
        suppressed = suppressed_sites(answers, VALIDATION_METRIC_NAMES)
        validated = events.ModelValidated(round=round, mean=over_subjects(scores), sites=scores, suppressed=suppressed)
        self._events.append(validated)
        if state.best and not self._config.privacy.on and (worse := worse_at(scores, state.best, of=sites)):
            self._events.append(events.ModelRolledBack(round=round, to=state.best.round, sites=worse))
            return False
        state.consider_best(validated, of=sites)
        return True

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Save what the block has brought. Where the disk has no room for it, what the block has noted is forgotten:
        else a resumed run would hold it for done, or do and note it a second time."""
        before = self._events.size_bytes
        yield
        try:
            run_state.save(self._run_dir, self._state, self._events)
        except AgiError:
            self._events.cut_back(before)
            raise

    @contextlib.contextmanager
    def _pausing(self) -> Iterator[None]:
        """When the run cannot go on: note why, keep the events that led to it, and say how to continue."""
        try:
            yield
        except (AgiError, httpx.HTTPError) as error:
            if isinstance(error, httpx.HTTPError):
                said = " ".join(str(error).split())[:100]
                error = RunError(f"the SuperLink failed ({said}); see superlink.log, and whether the disk is full")
            with contextlib.suppress(AgiError):  # the disk may be full
                self._events.append(events.RunPaused(round=self._state.round, reason=str(error)))
                run_state.keep_events(self._run_dir, self._events)
            deployed, whole = self._config.engine == DEPLOYMENT, name_of(self._run_dir).split("/")[0]
            command = f"python -m server resume {whole}" if deployed else "--resume"
            raise RunError(
                f"{error}; the last finished round is saved: solve what is named above and continue with {command}"
            ) from None


def _new_run(run_dir: Path, config: RunConfig, study: WholeStudy | None) -> tuple[RunState, EventLog]:
    weights = initial_weights(as_begun(config, run_dir))
    keys = KeyTable.of(config, {name: array.ndim for name, array in weights.items()})
    keys.write(run_dir, sites=config.federation.sites)
    run_id = study.run_of(parse_scenario(config.scenario)) if study else run_state.new_run_id(run_dir)
    state = RunState(weights, run_id=run_id)
    log, federation = EventLog(run_dir), config.federation
    log.append(events.RunStarted(run_id=state.run_id, sites=federation.sites, unseen_sites=federation.unseen_sites))
    run_state.save(run_dir, state, log)
    return state, log


def _by_site(metric: str, updates: Mapping[str, SiteUpdate]) -> dict[str, float]:
    """The metric of each of the sites that sent it; those that train privately do not."""
    return {site: update.metrics[metric] for site, update in updates.items() if metric in update.metrics}
