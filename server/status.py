"""What the coordinator and its newest run are doing: what `python -m server status` shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agi_core.cells import folder_of, is_vocabulary
from agi_core.config.schema import RunConfig
from agi_core.errors import AgiError, RunError
from agi_core.host.liveness import is_alive
from agi_core.protocol import TRAIN
from agi_core.run import events, run_folder
from agi_core.run.event_log import read_events
from agi_core.run.json_objects import Json
from server import flower_cli, registry, run_state, runs, strikes
from server.coordinator import CoordinatorDir
from server.flower_cli import Node
from server.follow import NOW, describe
from server.study_plan import not_held, plan_of

Reasoned = events.SiteMissing | events.SiteFailed | events.UpdateRefused
_END = (
    *(events.BaselineFinished, events.ModelTested, events.IntervalSolved, events.RangeLearnt),
    *(events.LastLayerSolved, events.LastLayersShared, events.BlendTested),
)
NOT_HELD = "that no site holds"
IDLE = events.Exchanging(round=0, action="", waiting_for=[])


@dataclass(frozen=True)
class SiteStatus:
    """A registered site. `status` and `last_seen` are those of its `Node`; `status` is "not registered" where Flower
    does not know the site, and "unknown" where no coordinator answers. `strikes` counts its refused replies."""

    status: str
    last_seen: str | None
    subjects: int | None
    strikes: int


@dataclass(frozen=True)
class RunStatus:
    """A run, as its folder shows it.

    `state` is running, finished, paused, interrupted (stopped or killed), starting, or damaged.
    `validation_psnr_db` is of the newest validation that has one. `suppressed` names the sites whose policy held
    figures back in the newest validation. `waiting_for` and `answered` name sites of the current round; `failed`
    and `refused` are {site: why} of that round, `sitting_out` of any. `action` is what the sites are asked to do
    now, and `reason` says why the run does not go on. `cells` is {cell: done, now, next, or `NOT_HELD`} of a run
    over a vocabulary, whose rounds and sites are those of the cell of now. `end` tells in sentences what the final
    test and the questions after it have brought. None: nothing, or not known.
    """

    name: str
    state: str
    round: int
    rounds: int
    validation_psnr_db: float | None
    waiting_for: Sequence[str]
    answered: Sequence[str]
    failed: Mapping[str, str]
    refused: Mapping[str, str]
    sitting_out: Mapping[str, str]
    suppressed: Sequence[str]
    action: str | None = None
    reason: str | None = None
    cells: Mapping[str, str] | None = None
    end: Sequence[str] | None = None


@dataclass(frozen=True)
class CoordinatorStatus:
    """`alive`: its process is there. `reachable`: it answers, and only this is readiness. `run` is the newest one, and
    `earlier` are the others, the newest first. `exists`: the folder is a coordinator's."""

    alive: bool
    reachable: bool
    sites: Mapping[str, SiteStatus]
    run: RunStatus | None
    earlier: Sequence[RunStatus] = ()
    exists: bool = True

    def to_json(self) -> Json:
        """As `status --json` prints it: a run has an `action` or a `reason` only where there is one."""
        run, earlier = self.run and _run_json(self.run), [_run_json(run) for run in self.earlier]
        return {**asdict(self), "run": run, "earlier": earlier}


def _run_json(run: RunStatus) -> Json:
    return {name: value for name, value in asdict(run).items() if value is not None or name == "validation_psnr_db"}


def coordinator_status(coordinator: CoordinatorDir) -> CoordinatorStatus:
    """What the folder shows, and what the SuperLink says if it answers.

    Raises:
        RunError: a file of the folder itself is damaged; of a run it is the run's `reason`.
    """
    entries, struck = registry.read(coordinator), strikes.read(coordinator.strikes_path)
    run_dirs = runs.by_start(coordinator)
    told = [_told(run_dir) for run_dir in run_dirs]
    run = told[0] if told else None
    nodes: Mapping[int, Node] = {}
    reachable = True
    try:
        nodes = flower_cli.nodes(coordinator)
        if run is not None and run.state == "interrupted":
            process = runs.flower_run(coordinator, run_dirs[0])
            run = replace(run, reason=process.reason) if process.is_finished else replace(run, state="starting")
    except RunError:
        reachable = False
    unseen = Node("not registered" if reachable else "unknown", None)
    sites = {}
    for site, entry in entries.items():
        node = nodes.get(entry.node_id or 0, unseen)
        sites[site] = SiteStatus(node.status, node.last_seen, entry.subjects, len(struck.get(site, [])))
    alive, exists = _is_alive(coordinator.health_port_path), coordinator.exists
    return CoordinatorStatus(alive, reachable, sites, run, told[1:], exists=exists)


def _told(run_dir: Path) -> RunStatus:
    """The run; by its name and what is wrong where its folder is damaged, which must not hide the others."""
    try:
        return run_status(run_dir)
    except AgiError as error:
        return RunStatus(run_dir.name, "damaged", 0, 0, None, (), (), {}, {}, {}, (), reason=str(error))


def run_status(run_dir: Path) -> RunStatus:
    """The run, as its folder shows it.

    Raises:
        RunError: there is no run in the folder, or its events are damaged. ConfigError: its configuration is.
    """
    config = run_folder.open_existing(run_dir)
    if not is_vocabulary(config.scenario):
        return _status_of(run_dir, config)
    whole, folders = _status_of(run_dir, config), {cell: folder_of(run_dir, cell) for cell in plan_of(config).trained}
    nobodys = not_held(run_dir)
    left = [
        cell for cell, folder in folders.items() if str(cell) not in nobodys and not (folder / "summary.json").is_file()
    ]
    words = dict.fromkeys(map(str, folders), "done") | dict.fromkeys(map(str, left), "next")
    words |= dict.fromkeys(nobodys, NOT_HELD)
    if not left:
        return replace(whole, cells=words)
    begun = (folders[left[0]] / "config.yaml").is_file()
    its = run_status(folders[left[0]]) if begun else whole
    return replace(its, name=whole.name, state=whole.state, reason=whole.reason, cells={**words, str(left[0]): "now"})


def _status_of(run_dir: Path, config: RunConfig) -> RunStatus:
    """By the run's own events."""
    log = read_events(run_dir) if (run_dir / "events.jsonl").is_file() else []
    happened = [event for _, event in log]
    begun = [event.round for event in happened if isinstance(event, events.RoundStarted | events.Waiting)]
    round = max(begun, default=0)
    validations = [event for event in happened if isinstance(event, events.ModelValidated)]
    pauses = [event.reason for event in happened[-1:] if isinstance(event, events.RunPaused)]
    state = _state(run_dir, paused=bool(pauses))
    now = _now(run_dir) if state == "running" else IDLE
    asked = {*now.waiting_for, *now.answered}  # one of them may have failed, and was asked again
    failed = _sites(happened, events.SiteMissing, round=round) | _sites(happened, events.SiteFailed, round=round)
    return RunStatus(
        name=run_dir.name,
        state=state,
        round=round,
        rounds=config.rounds,
        validation_psnr_db=next((event.mean["psnr_db"] for event in reversed(validations) if event.mean), None),
        waiting_for=now.waiting_for,
        answered=now.answered,
        failed={site: why for site, why in failed.items() if site not in asked},
        refused=_sites(happened, events.UpdateRefused, round=round),
        sitting_out=_sitting_out(happened),
        suppressed=validations[-1].suppressed if validations else [],
        action=now.action or None,
        reason=pauses[0] if state == "paused" else None,
        end=_end(happened) + [f"report: {run_dir / 'report.html'}"] * (state == "finished") or None,
    )


def _state(run_dir: Path, *, paused: bool) -> str:
    if run_state.is_held(run_dir):
        return "running"
    if (run_dir / "summary.json").is_file():
        return "finished"
    return "paused" if paused else "interrupted"


def _sites(happened: Sequence[events.Event], kind: type[Reasoned], *, round: int) -> dict[str, str]:
    """{site: why} of the events of this kind in this round, in the order of names."""
    return dict(sorted((its.site, its.reason) for its in happened if isinstance(its, kind) and its.round == round))


def _end(happened: Sequence[events.Event]) -> list[str]:
    """A resumed run may have come to its end twice, so the last of each kind, blend and baseline counts."""
    last = {
        (event.kind, getattr(event, "cell", ""), getattr(event, "name", "")): event
        for event in happened
        if isinstance(event, _END)
    }
    return [line for event in last.values() if (line := describe(event)) is not None]


def _sitting_out(happened: Sequence[events.Event]) -> dict[str, str]:
    """{site: why} of those that have not answered since they said so."""
    out: dict[str, str] = {}
    for event in happened:
        if isinstance(event, events.SiteSatOut) and event.action == TRAIN:
            out[event.site] = event.reason
        elif isinstance(event, events.RoundFinished):
            out = {site: reason for site, reason in out.items() if site not in event.sites}
    return out


def _now(run_dir: Path) -> events.Exchanging:
    """The exchange that is going on; `IDLE` where there is none yet, or its file cannot be read."""
    try:
        return events.Exchanging.from_json(json.loads((run_dir / NOW).read_bytes()))
    except (OSError, ValueError, TypeError):
        return IDLE


def _is_alive(health_port_path: Path) -> bool:
    return health_port_path.is_file() and is_alive(int(health_port_path.read_text(encoding="utf-8")))
