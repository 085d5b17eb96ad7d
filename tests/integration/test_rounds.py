"""The rounds of a deployed run when sites fail, are late or away: the real apps over an in-process grid that is as
unreliable as a network."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from safetensors.numpy import save

from agi_core import known_range
from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import DataError, PolicyError, ProtocolError, RunError
from agi_core.known_range import KnownRange
from agi_core.network import Network
from agi_core.protocol import ALONE, REFUSED, REGRESSIONS, SCALARS, STATISTICS, TEST
from agi_core.run import error_model, run_folder
from agi_core.run.checkpoint import load_last, load_with_trained_layer, trained_weights
from agi_core.run.error_model import read_error_model
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import (
    BaselineFinished,
    LastLayerSolved,
    LastLayersShared,
    PosesMeasured,
    PriorSolved,
    Retried,
    RoundFinished,
    SiteFailed,
    SiteMissing,
    Waiting,
    Warned,
)
from agi_core.run.initial_weights import initial_weights
from agi_core.run.own_weights import read_own_weights, style_path, style_paths
from agi_core.run_models import RunModels
from client.app import app as client_app
from server import exchange, status
from simulations.baselines import open_sites, run_baselines
from simulations.sites import find_sites
from tests.support.events import kinds_of
from tests.support.moved_heads import write_moved
from tests.support.small_data import SMALL
from tests.support.small_federation import assert_same_weights, federate
from tests.support.unsteady_grid import deploy


class Failing(ClientApp):
    """The site's real app, but the calls of these numbers fail."""

    def __init__(self, *fail_at: int) -> None:
        super().__init__()
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, message: Message, context: Context) -> Message:
        self.calls += 1
        if self.calls in self.fail_at:
            raise DataError("/data/patient-0042.nii.gz is gone")
        return client_app(message, context)


class Vanishing(ClientApp):
    """The site's real app, after a file has gone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __call__(self, message: Message, context: Context) -> Message:
        self.path.unlink(missing_ok=True)
        return client_app(message, context)


AWAY = {"HH": 10**9}


def test_a_deployed_run_equals_the_simulation_and_ends_with_a_report(small_config: RunConfig, tmp_path: Path) -> None:
    federate(small_config, tmp_path / "simulated")
    deploy(small_config, tmp_path / "deployed")
    assert_same_weights(tmp_path / "simulated", tmp_path / "deployed")
    summary = json.loads((tmp_path / "deployed" / "summary.json").read_text())
    assert (summary["interval"]["subjects"], summary["interval"]["left_out"]) == ({"Guys": 1, "HH": 1, "IOP": 1}, [])
    network = Network(run_folder.open_existing(tmp_path / "deployed"))
    network.load(trained_weights(tmp_path / "deployed"))
    simulated, deployed = (
        read_error_model(tmp_path / name / error_model.NAME, network=network) for name in ("simulated", "deployed")
    )
    np.testing.assert_array_equal(simulated.counts, deployed.counts)
    assert deployed.factor == summary["interval"]["factor"]
    assert kinds_of(tmp_path / "simulated") == kinds_of(tmp_path / "deployed")
    ranges = [KnownRange.read(tmp_path / name / known_range.NAME) for name in ("simulated", "deployed")]
    assert ranges[0] == ranges[1] is not None
    subjects = summary["known_range"]["subjects"]
    assert ([*subjects], str(ranges[1])) == (["Guys", "HH", "IOP"], f"{sum(subjects.values())} training subjects")
    page = (tmp_path / "deployed" / "report.html").read_text()
    assert "every site on its own machine" in page
    assert "simulations/run.py" not in page
    assert status.run_status(tmp_path / "deployed").state == "finished"


def test_what_the_sites_reach_alone_is_what_a_simulation_says(small_config: RunConfig, tmp_path: Path) -> None:
    """One round: then a model that is trained alone has seen one AdamW in both."""
    model = dataclasses.replace(small_config.model, prior="cubic")
    one = dataclasses.replace(small_config, rounds=1, model=model, personal="head")
    run_dir, config = tmp_path / "run", find_sites(one)[0]
    deploy(one, run_dir, alone=["Guys", "IOP"], shares=["Guys", "HH"])
    site_paths = {site: run_dir / "sites" / f"{site}.yaml" for site in config.federation.sites}
    data = open_sites(config, site_paths)
    names = ["local_only", "regression_pooled", "regression_per_site"]
    simulated = run_baselines(names, config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))
    summary = json.loads((run_dir / "summary.json").read_text())
    columns = summary["columns"]
    assert [*columns] == ["alone", "global", "personal"]
    assert [*columns["alone"]["sites"]] == ["Guys", "IOP"]
    for site, score in columns["alone"]["sites"].items():
        assert score == pytest.approx(simulated["local_only"].sites[site].to_json(), abs=1e-5)
    for name in ("regression_pooled", "regression_per_site"):
        told = summary["baselines"][name]["sites"]
        assert [*told] == ["Guys", "HH", "IOP"]
        for site, score in told.items():
            assert score == pytest.approx(simulated[name].sites[site].to_json(), abs=1e-5)
    assert not {"site_sat_out", "site_failed", "site_missing"} & {*kinds_of(run_dir)}

    (solved,) = events_of(run_dir, LastLayerSolved)
    assert (solved.sites, solved.left_out, solved.why) == (["Guys", "HH"], ["IOP"], "")
    assert summary["styles"] == {"sites": ["Guys", "HH"], "left_out": ["IOP"]}
    network = Network(run_folder.open_existing(run_dir))
    network.load(trained_weights(run_dir))
    (own_path,) = (run_dir / "sites" / "HH" / "heads").iterdir()
    at_site, shared = (read_own_weights(path, network=network) for path in (own_path, style_path(run_dir, "HH")))
    assert at_site.keys() == shared.keys()
    for name, array in shared.items():
        np.testing.assert_array_equal(array, at_site[name])
    assert style_paths(run_dir) == {site: style_path(run_dir, site) for site in ("Guys", "HH")}
    (cell,) = (models := RunModels.of(run_dir)).networks
    shutil.rmtree(run_dir / "sites")  # a coordinator does not have them
    models.load_style("HH", [cell])
    np.testing.assert_array_equal(models.network(cell).weights["head.weight"], at_site["head.weight"])
    again = Failing()
    deploy(one, run_dir, again, alone=["Guys", "IOP"], shares=["HH"])  # the process died before its summary
    assert again.calls == 0
    assert [event.sites for event in events_of(run_dir, LastLayersShared)] == [["Guys", "HH"]]
    page = (run_dir / "report.html").read_text()
    assert "A site without a figure under Alone" in page
    assert "against training alone at 2 sites" in page
    assert "of the cubic regression on aligned sources" in page
    assert "dB against own regression" in page


def test_a_site_that_tells_no_regression_lacks_that_figure_alone(small_config: RunConfig, tmp_path: Path) -> None:
    """A program that does not know the question refuses it. IOP did not train, and has no regression of its own."""

    class Older(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            asked = message.content.config_records[SCALARS]["subjects"]
            if context.node_config["site"] == "HH" and asked == REGRESSIONS:
                return Message(Error(REFUSED, ProtocolError.public), reply_to=message)
            return client_app(message, context)

    model = dataclasses.replace(small_config.model, prior="cubic")
    one, run_dir = dataclasses.replace(small_config, rounds=1, clients=2, model=model), tmp_path / "run"
    deploy(one, run_dir, Older())
    config = run_folder.open_existing(run_dir)
    assert config.federation.unseen_sites == ("IOP",)
    site_paths = {site: run_dir / "sites" / f"{site}.yaml" for site in ("Guys", "HH", "IOP")}
    data, log = open_sites(config, site_paths), EventLog(tmp_path)
    simulated = run_baselines(["regression_pooled"], config=config, data=data, run_dir=tmp_path, events=log)
    pooled, own = events_of(run_dir, BaselineFinished)
    assert (pooled.name, [*pooled.sites], [*pooled.unseen_sites]) == ("regression_pooled", ["Guys"], ["IOP"])
    assert (own.name, [*own.sites], [*own.unseen_sites]) == ("regression_per_site", ["Guys"], [])
    for site, score in {**pooled.sites, **pooled.unseen_sites}.items():
        theirs = simulated["regression_pooled"]
        expected = {**theirs.sites, **theirs.unseen_sites}[site]
        assert score.to_json() == pytest.approx(expected.to_json(), abs=1e-5)
    assert [(event.site, event.action) for event in events_of(run_dir, SiteFailed)] == [("HH", "evaluate")]
    run = status.run_status(run_dir)
    assert run.state == "finished"
    assert [line.partition(",")[0] for line in run.end or () if "regression" in line] == [
        "regression pooled",
        "regression per site",
    ]
    page = (run_dir / "report.html").read_text()
    assert "dB at 1 site)." in page
    assert "Voxel regression and centralised training are not run" in page


def test_where_nobody_tells_statistics_nobody_is_asked_for_regressions(small_config: RunConfig, tmp_path: Path) -> None:
    class Refusing(ClientApp):
        asked: ClassVar[list[str]] = []

        def __call__(self, message: Message, context: Context) -> Message:
            self.asked.append(str(message.content.config_records[SCALARS]["subjects"]))
            if self.asked[-1] == STATISTICS:
                return Message(Error(REFUSED, PolicyError.public), reply_to=message)
            return client_app(message, context)

    model = dataclasses.replace(small_config.model, prior="cubic")
    deploy(dataclasses.replace(small_config, rounds=1, model=model), tmp_path / "run", Refusing())
    assert TEST in Refusing.asked
    assert REGRESSIONS not in Refusing.asked


@pytest.mark.slow  # a whole run
def test_a_site_that_fails_alone_lacks_that_figure_alone(small_config: RunConfig, tmp_path: Path) -> None:
    one, run_dir = dataclasses.replace(small_config, rounds=1), tmp_path / "run"
    app = Failing(6 * 3 + 2)  # a round, validation, test, two of errors, the range, of three sites; then the second
    deploy(one, run_dir, app, alone=["Guys", "HH", "IOP"])
    (alone,) = events_of(run_dir, BaselineFinished)
    assert [*alone.sites] == ["Guys", "IOP"]
    assert [event.site for event in events_of(run_dir, SiteFailed)] == ["HH"]
    assert status.run_status(run_dir).state == "finished"
    deploy(one, run_dir, Failing(1), alone=["HH"])  # after a process that died before it wrote the summary
    assert len(events_of(run_dir, BaselineFinished)) == 1


def test_the_slowest_site_that_trains_alone_is_asked_until_it_has_its_figure(
    small_config: RunConfig, tmp_path: Path
) -> None:
    """Half of the time is over after each round that it trains: one of the run, one more as the personal model has."""

    class Slow(ClientApp):
        asked: ClassVar[list[str]] = []

        def __call__(self, message: Message, context: Context) -> Message:
            scalars = message.content.config_records[SCALARS]
            if scalars["subjects"] == ALONE:
                self.asked.append(f"{context.node_config['site']} {scalars['round']}")
                scalars["deadline_s"] = 0
            return client_app(message, context)

    one, run_dir = dataclasses.replace(small_config, rounds=1, personal="finetune"), tmp_path / "run"
    deploy(one, run_dir, Slow(), alone=["HH"])
    (alone,) = events_of(run_dir, BaselineFinished)
    assert [*alone.sites] == ["HH"]
    assert [asked for asked in Slow.asked if asked.startswith("HH")] == ["HH 2", "HH 3", "HH 4"]
    assert not events_of(run_dir, SiteFailed)


@pytest.mark.slow  # a whole run
def test_without_its_first_weights_a_run_ends_without_that_figure(small_config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    path.write_bytes(save(initial_weights(find_sites(small_config)[0])))
    one = dataclasses.replace(small_config, rounds=1, initial_weights=str(path))
    deploy(one, tmp_path / "run", Vanishing(path), alone=["HH"])
    assert not events_of(tmp_path / "run", BaselineFinished)
    (warned,) = events_of(tmp_path / "run", Warned)
    assert warned.text.startswith(f"no site has trained alone: initial_weights={path} cannot be read")


def test_a_run_whose_validation_never_moves_says_so_at_its_end(
    small_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = dataclasses.replace(small_config.training, learning_rate=1e-9)
    deploy(dataclasses.replace(small_config, training=still), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (flag,) = (flag for flag in summary["flags"] if flag.startswith("the validation never moved: "))
    assert f"run: warning: {flag}\n" in capsys.readouterr().out
    assert flag in (tmp_path / "run" / "report.html").read_text()


def test_a_round_below_the_quorum_is_retried_with_the_same_weights(small_config: RunConfig, tmp_path: Path) -> None:
    federate(small_config, tmp_path / "whole")
    app = Failing(5)  # three sites: calls 1-3 are round 1, 4-6 round 2
    deploy(small_config, tmp_path / "run", app)
    # who had answered is not asked again; then validation, test, two of errors, range, alone
    assert app.calls == 3 + 3 + 1 + 6 * 3
    assert [event.answered for event in events_of(tmp_path / "run", Retried)] == [["Guys", "IOP"]]
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_run_pauses_and_goes_on(small_config: RunConfig, tmp_path: Path) -> None:
    federate(small_config, tmp_path / "whole")
    run_dir = tmp_path / "run"
    with pytest.raises(RunError, match=r"2 of 3 sites .* python -m server resume run"):
        deploy(small_config, run_dir, Failing(5, 7))
    assert load_last(run_dir)[0] == 1  # type: ignore[index]
    assert status.run_status(run_dir).state == "paused"
    assert status.run_status(run_dir).failed == {"HH": "DataError: /data/patient-0042.nii.gz is gone"}
    assert "the run paused: round 2: 2 of 3 sites" in (run_dir / "report.html").read_text()

    deploy(small_config, run_dir)
    assert_same_weights(tmp_path / "whole", run_dir)
    assert len(events_of(run_dir, SiteFailed)) == 2  # what led to the pause stays on record
    assert "the run paused" in (run_dir / "report.html").read_text()


def test_the_prior_is_asked_for_again_where_nobody_had_agreed_to_the_study(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config = load_config(None, overrides={}, assignments=["model.prior=cubic"], base=small_config)
    federate(config, tmp_path / "whole")

    class Unasked(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            return Message(Error(REFUSED, PolicyError.public), reply_to=message)

    with pytest.raises(RunError, match="0 of 3 sites"):
        deploy(config, tmp_path / "run", Unasked())
    deploy(config, tmp_path / "run")
    assert [event.sites for event in events_of(tmp_path / "run", PriorSolved)] == [[], ["Guys", "HH", "IOP"]]
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_robust_rule_of_too_few_statistics_keeps_the_prior_and_trains(
    small_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class OneKeepsThem(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            asked = message.content.config_records[SCALARS]["subjects"]
            if context.node_config["site"] == "HH" and asked == STATISTICS:
                return Message(Error(REFUSED, PolicyError.public), reply_to=message)
            return client_app(message, context)

    settings = ["model.prior=cubic", "federation.aggregation=trimmed_mean", "rounds=1"]
    config, run_dir = load_config(None, overrides={}, assignments=settings, base=small_config), tmp_path / "run"
    deploy(config, run_dir, OneKeepsThem())
    (solved,) = events_of(run_dir, PriorSolved)
    why = "HH told no usable statistics, and trimmed_mean needs 3 replies to withstand 1 hostile, and 2 were accepted"
    assert (solved.sites, solved.why) == ([], why)
    assert [event.sites for event in events_of(run_dir, RoundFinished)] == [["Guys", "HH", "IOP"]]
    assert not trained_weights(run_dir)["prior.coefficients"].any()
    said = f"{why}, so the common prior stays as it was"
    assert f"run: {said}\n" in capsys.readouterr().out
    assert said in (run_dir / "report.html").read_text()


def test_a_run_that_pauses_at_its_test_solves_the_last_layer_anew_and_ends_the_same(
    small_config: RunConfig, tmp_path: Path
) -> None:
    class Untested(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            if message.content.config_records[SCALARS]["subjects"] == TEST:
                return Message(Error(REFUSED, PolicyError.public), reply_to=message)
            return client_app(message, context)

    settings, everybody = ["model.prior=cubic", "personal=head", "rounds=1"], ("Guys", "HH", "IOP")
    config = load_config(None, overrides={}, assignments=settings, base=small_config)
    deploy(config, tmp_path / "whole", shares=everybody)
    with pytest.raises(RunError, match="0 of 3 sites"):
        deploy(config, tmp_path / "run", Untested(), shares=everybody)
    deploy(config, tmp_path / "run", shares=everybody)
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
    trained = load_with_trained_layer(tmp_path / "run")
    for name, array in load_with_trained_layer(tmp_path / "whole").items():
        np.testing.assert_array_equal(trained[name], array)
    assert (trained["head.weight"] != trained_weights(tmp_path / "run")["head.weight"]).any()


def test_when_every_site_fails_nothing_is_overwritten(small_config: RunConfig, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(RunError, match="0 of 3 sites"):
        deploy(small_config, run_dir, Failing(*range(4, 20)), quorum=1)
    last = load_last(run_dir)
    assert last is not None
    assert last[0] == 1
    assert {event.site for event in events_of(run_dir, SiteFailed)} == {"Guys", "HH", "IOP"}


def test_an_absent_site_is_waited_for_once_and_named(small_config: RunConfig, tmp_path: Path) -> None:
    deploy(small_config, tmp_path / "run", away=AWAY, quorum=2, wait_s=0.6)
    assert [event.sites for event in events_of(tmp_path / "run", Waiting)] == [["HH"]]
    missing = events_of(tmp_path / "run", SiteMissing)
    assert {event.site for event in missing} == {"HH"}
    assert [event.round for event in missing if event.action == "train"] == [1, 2]
    assert all(sorted(event.train_loss) == ["Guys", "IOP"] for event in events_of(tmp_path / "run", RoundFinished))
    assert "not connected" in (tmp_path / "run" / "report.html").read_text()


def test_without_the_quorum_nobody_works_in_vain(small_config: RunConfig, tmp_path: Path) -> None:
    app = Failing()
    with pytest.raises(RunError, match="0 of 3 sites"):
        deploy(small_config, tmp_path / "run", app, away=AWAY, wait_s=0.6)
    assert app.calls == 0
    assert load_last(tmp_path / "run")[0] == 0  # type: ignore[index]


def test_a_site_that_comes_later_joins_at_the_next_round(small_config: RunConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(small_config, rounds=3)
    deploy(config, tmp_path / "run", away={"HH": 2}, quorum=2, wait_s=0.3)
    took_part = [sorted(event.train_loss) for event in events_of(tmp_path / "run", RoundFinished)]
    assert took_part[0] == ["Guys", "IOP"]
    assert took_part[-1] == ["Guys", "HH", "IOP"]


@pytest.mark.slow  # it waits for the deadline
def test_a_silent_site_is_given_up_at_the_deadline(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "GRACE_S", 0.5)
    config = dataclasses.replace(small_config, rounds=1)
    deploy(config, tmp_path / "run", silent="HH", quorum=2, deadline_s=8.0)
    (missing,) = [event for event in events_of(tmp_path / "run", SiteMissing) if event.action == "train"]
    assert (missing.site, missing.reason) == ("HH", "no answer to train within 8 s")
    final = [event for event in events_of(tmp_path / "run", SiteMissing) if event.action == "evaluate"]
    assert [event.site for event in final] == ["HH"]  # asked for its validation, and then no more for its test
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_busy_superlink_is_asked_again(small_config: RunConfig, tmp_path: Path) -> None:
    deploy(small_config, tmp_path / "run", refused={"nodes": 500, "push": 500, "pull": 500})
    assert not {"site_missing", "run_paused"} & {*kinds_of(tmp_path / "run")}


@pytest.mark.parametrize("refused", [{"nodes": 401}, {"push": 401}, {"pull": 401}])
def test_a_superlink_that_fails_pauses_the_run(
    small_config: RunConfig, tmp_path: Path, refused: Mapping[str, int]
) -> None:
    with pytest.raises(RunError, match=r"the SuperLink failed .* see superlink.log.* python -m server resume run"):
        deploy(small_config, tmp_path / "run", refused=refused)
    assert status.run_status(tmp_path / "run").state == "paused"
    deploy(small_config, tmp_path / "run")
    assert status.run_status(tmp_path / "run").state == "finished"


def test_a_site_that_flower_gives_up_is_named_in_plain_words(small_config: RunConfig, tmp_path: Path) -> None:
    class Lost(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            if context.node_config["site"] != "HH":
                return client_app(message, context)
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "Error: Node Unavailable"), reply_to=message)

    deploy(dataclasses.replace(small_config, rounds=1), tmp_path / "run", Lost(), quorum=2)
    failed = events_of(tmp_path / "run", SiteFailed)
    assert {(event.site, event.reason) for event in failed} == {
        ("HH", "its connection was lost for a minute: its node or its network failed")
    }


def test_status_of_a_running_run(small_config: RunConfig, tmp_path: Path) -> None:
    run_dir, seen = tmp_path / "run", list[status.RunStatus]()

    class Watching(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            seen.append(status.run_status(run_dir))
            return client_app(message, context)

    deploy(small_config, run_dir, Watching())
    first, last = seen[0], seen[-1]
    assert first.state == last.state == "running"
    assert (first.round, first.action, first.waiting_for) == (1, "train", ["Guys", "HH", "IOP"])
    assert first.validation_psnr_db is None
    assert last.action == "evaluate"
    assert last.validation_psnr_db is not None
    assert last.validation_psnr_db > 0


def test_two_processes_cannot_work_on_one_run(small_config: RunConfig, tmp_path: Path) -> None:
    run_dir, refusals = tmp_path / "run", []

    class Intruder(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            if not refusals:
                with pytest.raises(RunError, match="another process works on the run") as refusal:
                    deploy(small_config, run_dir)
                refusals.append(refusal)
            return client_app(message, context)

    deploy(small_config, run_dir, Intruder())
    assert refusals


def test_the_scans_choose_what_the_run_left_open_once(tmp_path: Path) -> None:
    """The target lies 4 mm away from every source."""
    write_moved(tmp_path / "scans", moved_vox={"T1": 0, "T2": 0, "PD": 2}, subjects=4)
    overrides = {"data.dir": str(tmp_path / "scans"), "data.cache_dir": str(tmp_path / "cache"), "clients": 2}
    config, run_dir = load_config(None, overrides=overrides, assignments=SMALL), tmp_path / "run"
    with pytest.raises(RunError):
        deploy(config, run_dir, Failing(*range(3, 9)), measures_poses=True)  # calls 1 and 2 ask for poses
    (measured,) = events_of(run_dir, PosesMeasured)
    assert [*measured.sites] == ["Guys-1", "Guys-2"]
    assert measured.chosen.endswith("No source lies in the pose of PD, so it is aligned too, in training alone")
    assert run_folder.open_existing(run_dir).training.align_target is True
    deploy(config, run_dir, measures_poses=True)
    assert len(events_of(run_dir, PosesMeasured)) == 1
    assert len(events_of(run_dir, RoundFinished)) == 2
