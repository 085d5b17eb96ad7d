"""Reports of small run folders, written by the same functions as a real run's, and read back with an HTML parser."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.report import sections
from agi_core.report.examples import Example, write_examples
from agi_core.report.report import build_report
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog
from agi_core.run.events import (
    BaselineFinished,
    DataFound,
    Event,
    IntervalSolved,
    LastLayerSolved,
    LastLayersShared,
    ModelRolledBack,
    ModelTested,
    ModelValidated,
    PriorSolved,
    RangeLearnt,
    RoundFinished,
    RunFinished,
    RunStarted,
    SiteFailed,
    SiteMissing,
    SiteQuarantined,
    SiteSatOut,
    UpdateClipped,
    UpdateRefused,
    Warned,
)
from agi_core.run.scores import Best, Scores, SiteScore, over_subjects
from agi_core.run.study_summary import StudySummary, write_study_summary
from agi_core.run.summary import summarise, write_summary
from tests.support.long_run import write_long_run

HOSTILE = "<b>x $\\frac"
SITES, UNSEEN = ["Guys", HOSTILE], ["_IOP"]
SPLITS = {
    "Guys": {"train": ["IXI001", "IXI002"], "validation": ["IXI003"], "test": ["IXI004"]},
    HOSTILE: {"train": ["IXI005"], "validation": [], "test": ["IXI006", "IXI007"]},
    "_IOP": {"train": [], "validation": [], "test": ["IXI008"]},
}


def site_score(psnr_db: float, *, subjects: int) -> SiteScore:
    values = {"psnr_db": psnr_db, "ssim": 0.812, "mae": 0.0344, "nmse": 0.0678}
    return SiteScore(values | {f"{name}_foreground": value / 2 for name, value in values.items()}, subjects)


def scores(shift_db: float, *, unseen: bool = True) -> Scores:
    """Guys 24 dB (1 subject), hostile site 21 dB (2), so 22 dB in the mean; unseen site 20.5 dB; all plus the shift."""
    sites = {"Guys": site_score(24 + shift_db, subjects=1), HOSTILE: site_score(21 + shift_db, subjects=2)}
    return Scores.over(sites, {"_IOP": site_score(20.5 + shift_db, subjects=1)} if unseen else {})


NOTHING = Scores.over({}, {})
BASELINES = {
    **{"voxel_regression": scores(-2.0), "regression_pooled": scores(-1.5), "regression_per_site": scores(-1.0)},
    **{"local_only": scores(-0.75), "centralised": scores(0.25)},
}


TESTED = ModelTested(scores=scores(0.0), personal=scores(0.5, unseen=False), best=Best(round=1, psnr_db=21.25))


class Run:
    """A run folder in the making."""

    def __init__(self, run_dir: Path, *, unseen: list[str], conv: str = "cagr", **settings: Any) -> None:
        overrides = {"federation.sites": SITES, "federation.unseen_sites": unseen, "rounds": 2, "model.conv": conv}
        overrides |= {"model.alignment": "none", "training.local_steps": 16, "training.batch_size": 8}
        self.dir = run_dir
        run_folder.create(run_dir, load_config(None, overrides=overrides | settings))
        (run_dir / "splits.json").write_text(json.dumps(SPLITS))
        self.events = EventLog(run_dir)
        self.note(RunStarted(run_id="1", sites=SITES, unseen_sites=unseen))

    def note(self, *events: Event) -> None:
        for event in events:
            self.events.append(event)

    def train(self, *, rounds: int, validation: bool = True) -> None:
        for n in range(rounds + 1):
            if n:
                losses, seconds = dict.fromkeys(SITES, 0.1 / n), dict.fromkeys(SITES, 1.0)
                self.note(RoundFinished(round=n, sites=SITES, train_loss=losses, seconds=seconds))
            sites = {"Guys": site_score(18 + n, subjects=1)} if validation else {}
            self.note(ModelValidated(round=n, mean=over_subjects(sites), sites=sites))

    def finish(self, tested: ModelTested = TESTED, **of_a_simulation: Any) -> None:
        self.note(tested, RunFinished())
        summary = summarise(self.dir, run_folder.open_existing(self.dir), wall_s=83.2)
        known = {"baselines": BASELINES, "synthetic": True, "anatomies": 2} | of_a_simulation
        write_summary(self.dir, dataclasses.replace(summary, **known))


class Page(HTMLParser):
    """What a reader sees: text, rows of tables, images; and every address the page refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.text, self.in_cell = "", False
        self.rows: list[list[str]] = []
        self.images: dict[str, str] = {}
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(self.source)
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in cells] for cells in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.addresses += [values[name] for name in ("src", "href", "action", "data", "srcset") if name in values]
        if tag == "img":
            self.images[values["alt"]] = values["src"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("style", "script"):
            return
        self.text += f" {data}"
        if self.in_cell:
            self.rows[-1][-1] += f" {data}"

    def row(self, start: str, *, number: int = 1) -> list[str]:
        """The cells of the first, or another, table row whose heading starts like this."""
        return [cells for cells in self.rows if cells and cells[0].startswith(start)][number - 1]

    def svg(self, alt_start: str) -> str:
        """The source of the figure whose description starts like this."""
        uri = next(uri for alt, uri in self.images.items() if alt.startswith(alt_start))
        return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = Run(tmp_path_factory.mktemp("runs") / "run", unseen=UNSEEN)
    run.train(rounds=2)
    run.finish()
    image = np.linspace(0, 1, 40 * 32, dtype=np.float32).reshape(40, 32)
    sources = {"T1": image, "T2": 1 - image}
    example = Example("_IOP", True, "_IOP, test subject 1", sources, image, image * 0.9, image > 0.2)
    write_examples(run.dir, [example])
    return Page(build_report(run.dir))


def test_the_page_needs_nothing_from_outside(full: Page) -> None:
    assert full.addresses
    assert all(address.startswith("data:image/") for address in full.addresses)
    assert full.source.count("<script") == 1
    assert "@import" not in full.source
    assert "url(" not in full.source


def test_the_outcome_stands_in_words_on_top(full: Page) -> None:
    outcome = (
        "AGI-Net, trained federated over 2 sites, synthesises PD from T1 and T2 with a PSNR of 22.00 dB (mean over 3"
        " test subjects) against 20.50 dB of the cubic regression on aligned sources (+1.50 dB). The worst site of"
        f" the global model is {HOSTILE} with 21.00 dB. With a last layer of its own each site has 22.50 dB: +1.50 dB"
        " against own regression and +1.25 dB against training alone. _IOP, which took no part in training, reaches"
        " 20.50 dB."
    )
    assert outcome in full.text
    assert f"Worst site, global 21.00 dB {HOSTILE}" in full.text
    assert "Over regression, aligned +1.50 dB Global PSNR, same subjects" in full.text
    assert "Global SSIM 0.812" in full.text
    assert "SYNTHETIC DATA (2 anatomies)" in full.text
    assert "not finished" not in full.text


def test_what_a_site_gains_stands_side_by_side(full: Page) -> None:
    assert full.row("Guys") == ["Guys", "23.25 dB", "24.00 dB", "24.50 dB", "+1.25 dB"]
    assert full.row("all of these") == ["all of these subjects", "21.25 dB", "22.00 dB", "22.50 dB", "+1.25 dB"]
    assert full.row("_IOP") == ["_IOP unseen site", "19.75 dB", "20.50 dB", "–", "–"]
    assert "Alone at an unseen site: the mean over the models that the training sites trained alone." in full.text


def test_without_own_weights_the_common_model_is_what_a_site_gains(tmp_path: Path, full: Page) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN)
    run.train(rounds=2)
    run.finish(ModelTested(scores=scores(0.0)))
    page = Page(build_report(run.dir))
    assert page.row("Site") == ["Site", "Alone", "Global", "Global minus alone"]
    assert page.row("Guys") == ["Guys", "23.25 dB", "24.00 dB", "+0.75 dB"]
    assert full.row("Site") == ["Site", "Alone", "Global", "Personal", "Personal minus alone"]
    told = "Personal: the common model with"
    assert (told in page.text, told in full.text) == (False, True)


def test_every_site_has_its_figures_and_the_worst_and_the_unseen_are_marked(full: Page) -> None:
    values = ["0.812", "0.0344", "0.0678"]
    halves = ["0.406", "0.0172", "0.0339"]
    assert full.row("Guys", number=2) == ["Guys", "1", "24.00", *values, "12.00", *halves]
    assert full.row(HOSTILE, number=2) == [f"{HOSTILE} worst site", "2", "21.00", *values, "10.50", *halves]
    assert full.row("_IOP", number=2) == ["_IOP unseen site", "1", "20.50", *values, "10.25", *halves]
    assert full.row("all of these", number=2)[:3] == ["all of these subjects", "3", "22.00"]
    assert 'data-label="PSNR (dB)">24.00' in full.source  # what stands beside a figure on a telephone
    assert 'data-label="PSNR (dB), foreground">12.00' in full.source


def test_baselines_stand_with_their_difference_and_how_they_were_trained(full: Page) -> None:
    assert full.row("voxel regression")[1:3] == ["20.00 dB", "+2.00 dB"]
    assert full.row("personal")[1:3] == ["22.50 dB", "−0.50 dB"]
    local = full.row("local-only")
    assert local[1:] == ["21.25 dB", "+0.75 dB", "0.812", f"{HOSTILE} 20.25 dB", "19.75 dB"]
    assert "2 x 16 = 32 steps on its own scans, batch 8" in local[0]
    centralised = full.row("centralised")
    assert centralised[1:3] == ["22.25 dB", "−0.25 dB"]
    assert "batch 2 x 8 = 16" in centralised[0]
    assert "Not run" not in full.text


def test_what_was_run_names_start_server_step_and_personal_model(tmp_path: Path) -> None:
    settings = {"federation.server_optimizer": "adam", "federation.server_learning_rate": 0.003, "personal": "none"}
    run = Run(tmp_path / "run", unseen=[], **settings, initial_weights=".cache/pretrained-0123456789ab.safetensors")
    run.train(rounds=2)
    page = Page(build_report(run.dir))
    public = "pre-trained on public synthetic data (pretrained-0123456789ab.safetensors)"
    assert page.row("Initial weights") == ["Initial weights", public]
    assert page.row("Server step") == ["Server step", "mean of the sites' weights, FedAdam with learning rate 0.003"]
    assert page.row("Personal model") == ["Personal model", "none"]


def test_one_of_each_is_told_without_an_s(tmp_path: Path) -> None:
    ones = {"rounds": 1, "training.local_steps": 1, "training.batch_size": 1, "evaluation.max_subjects": 1}
    run = Run(tmp_path / "run", unseen=UNSEEN, **ones)
    run.train(rounds=1)
    run.finish()
    page = Page(build_report(run.dir))
    assert page.row("Training")[1].startswith("1 round x 1 local step x 1 crop of ")
    assert "1 round of 1 local step at each site, batch 1" in page.row("AGI-Net, federated")[0]
    assert "1 x 1 = 1 step on its own scans" in page.row("local-only")[0]
    assert not re.findall(r"\b1 (?:rounds|local steps|steps|crops|subjects|sites|slices)\b", page.text)


def test_curves_name_every_site_and_slices_show_every_image(full: Page) -> None:
    curves = full.svg("Validation PSNR")
    assert all(name in curves for name in ("Guys", "&lt;b&gt;x $\\frac", "PSNR (dB)", "loss"))
    assert "_IOP (unseen)" in full.svg("Test PSNR per site")
    shown = [alt.split(":")[0] for alt in full.images if alt.endswith("_IOP, test subject 1")]
    assert shown == ["Source T1", "Source T2", "Target", "Prediction", "Absolute error"]
    assert "cut to the head. The predictions are the global model's." in full.text
    assert "Best validation PSNR (median over sites): 21.25 dB after round 1" in full.text
    assert {"target", "prediction", "power (dB)"} <= set(re.findall(">([^<>]+)</text>", full.svg("Radial power")))


def test_the_same_slices_are_shown_from_round_to_round(tmp_path: Path) -> None:
    """Of a grey head half, then three quarters, then seven eighths are predicted. 20 log10(1 / error) by hand."""
    run = Run(tmp_path / "run", unseen=[])
    run.train(rounds=2)
    run.finish()
    head = np.full((40, 32), 0.75, np.float32)
    shares = {0: 0.5, 1: 0.75}
    followed = Example("Guys", False, "Guys, test subject 1", {"T1": head}, head, head * 0.875, head > 0.2)
    write_examples(
        run.dir,
        [
            dataclasses.replace(followed, earlier={round: head * share for round, share in shares.items()}),
            dataclasses.replace(followed, title="Guys, test subject 1, slice 3 of 9"),
        ],
    )
    page = Page(build_report(run.dir))
    told = re.findall(r"(Before training|After round \d+|In the test|Real) A R Guys ([\d.]* dB)?", page.text)
    assert told == [
        ("Before training", "8.52 dB"),  # of 0.375
        ("After round 1", "14.54 dB"),  # of 0.1875
        ("In the test", "20.56 dB"),  # of 0.09375
        ("Real", ""),
    ]


def test_a_run_whose_slices_were_not_kept_on_the_way_has_no_such_section(full: Page) -> None:
    assert "From round to round" not in full.text


def test_a_deployed_run_answers_whether_it_is_better_than_a_sites_own(tmp_path: Path) -> None:
    """Guys has trained alone, to 23.25 dB; the others did not. Means are over the sites that have all figures."""
    run = Run(tmp_path / "run", unseen=[], engine="deployment")
    run.train(rounds=2)
    alone = BASELINES["local_only"].among(["Guys"])
    tested = ModelTested(scores=scores(0.0, unseen=False), personal=scores(0.5, unseen=False))
    regression = BASELINES["regression_pooled"].among([HOSTILE])
    baselines = {"local_only": alone, "regression_pooled": regression}
    run.finish(tested, baselines=baselines, synthetic=None, anatomies=None)
    page = Page(build_report(run.dir))
    assert page.row("Guys", number=1) == ["Guys", "23.25 dB", "24.00 dB", "24.50 dB", "+1.25 dB"]
    assert page.row(HOSTILE, number=1) == [HOSTILE, "–", "21.00 dB", "21.50 dB", "–"]
    assert page.row("sites with all figures")[1:] == ["23.25 dB", "24.00 dB", "24.50 dB", "+1.25 dB"]
    assert "each site has 22.50 dB : +1.25 dB against training alone at 1 site." in page.text.replace("dB:", "dB :")
    assert "does not allow it, or did not answer in time" in page.text
    assert "Alone at an unseen site" not in page.text
    assert "against 19.50 dB of the cubic regression on aligned sources (+1.50 dB at 1 site)." in page.text
    assert page.row("regression, aligned")[1:3] == ["19.50 dB", "+1.50 dB"]
    assert page.row("local-only")[1:3] == ["23.25 dB", "+0.75 dB"]
    assert "Voxel regression and centralised training are not run" in page.text


def test_text_is_escaped_and_no_subject_is_named(full: Page) -> None:
    assert "<b>x" not in full.source
    assert "IXI0" not in full.source


def test_equal_runs_give_equal_reports(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN)
    run.train(rounds=2)
    run.finish()
    first = build_report(run.dir).read_bytes()
    assert build_report(run.dir).read_bytes() == first
    assert not list(run.dir.glob(".tmp-*"))


def test_a_plain_network_on_real_scans_without_unseen_sites_validation_and_comparison(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[], conv="plain")
    run.train(rounds=2, validation=False)
    regression = {name: scores(-1.5) for name in ("voxel_regression", "regression_pooled", "regression_per_site")}
    tested = ModelTested(scores=scores(0.0, unseen=False))
    run.finish(tested, baselines=regression, synthetic=False, anatomies=None)
    page = Page(build_report(run.dir))
    assert "plain ResUNet, trained federated over 2 sites" in page.text
    assert "AGI-Net" not in page.text
    assert (
        "Over regression, aligned +1.50 dB PSNR, same subjects" in page.text
    )  # there is no other than the global model
    assert "Global SSIM" not in page.text
    assert "SYNTHETIC" not in page.text
    assert "PATIENT DATA : this page shows slices of test subjects' scans." in page.text
    assert "No site tells of its validation" in page.text
    assert "PSNR (dB)" not in page.svg("Validation PSNR")
    assert "Not run: local-only and centralised." in page.text
    assert f"python simulations/run.py --out {run.dir} --resume --compare" in page.text


@pytest.mark.parametrize("finished", [True, False])
def test_a_cell_is_gone_on_with_by_its_whole_run(finished: bool, tmp_path: Path) -> None:
    run = Run(tmp_path / "any" / "cells" / "T2-to-PD", unseen=[])
    run.train(rounds=2)
    if finished:
        run.finish(baselines={})
    page = Page(build_report(run.dir))
    assert f"python simulations/run.py --out {tmp_path / 'any'} --resume" in page.text
    assert f"--out {run.dir}" not in page.text


def test_sites_without_test_subjects_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.train(rounds=2)
    run.finish(ModelTested(scores=NOTHING), baselines={"voxel_regression": NOTHING})
    page = Page(build_report(run.dir))
    assert "No training site has a test subject" in page.text
    assert f"without an answer to the test: {HOSTILE} and Guys." in page.text


def test_an_anatomy_that_was_held_back_is_told_on_top_and_beside_the_figures(tmp_path: Path, full: Page) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN, **{"data.unseen_anatomy": "ms19"})
    run.train(rounds=2)
    run.finish()
    told = "Held back for the test: the anatomy ms19, on which nobody trained or validated in this run."
    assert Page(build_report(run.dir)).text.count(told) == 2
    assert "Held back" not in full.text


def test_an_anatomy_that_was_held_back_from_all_cells_is_told_on_top(tmp_path: Path) -> None:
    run_folder.create(tmp_path / "run", RunConfig(scenario="T1,PD:any"))
    summary = StudySummary(scenario="T1,PD:any", cells={}, offers={}, unseen_anatomy="ms19")
    write_study_summary(tmp_path / "run", summary)
    assert "be made by anybody. Held back for the test: the anatomy ms19" in Page(build_report(tmp_path / "run")).text


def test_where_only_unseen_sites_can_be_tested_they_are_compared(tmp_path: Path) -> None:
    def unseen(psnr_db: float) -> Scores:
        return Scores.over({}, {"_IOP": site_score(psnr_db, subjects=1)})

    run = Run(tmp_path / "run", unseen=UNSEEN)
    run.train(rounds=2)
    baselines = {"regression_pooled": unseen(20.0), "local_only": unseen(20.25), "regression_per_site": NOTHING}
    run.finish(ModelTested(scores=unseen(20.5)), baselines=baselines)
    page = Page(build_report(run.dir))
    assert "reaches 20.50 dB. There that is +0.50 dB against the cubic regression on aligned sources." in page.text
    assert "_IOP; +0.50 dB against regression, aligned" in page.text
    assert ["_IOP unseen site", "20.25 dB", "20.50 dB", "+0.25 dB"] in page.rows
    (row,) = [row for row in page.rows if row[0].startswith("regression, aligned")]
    assert row[1:3] == ["–", "+0.50 dB"]
    assert row[5] == "20.00 dB"


@pytest.mark.parametrize("rounds", [0, 1])
def test_an_unfinished_run_says_so(tmp_path: Path, rounds: int) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN)
    if rounds:
        run.train(rounds=rounds)
    page = Page(build_report(run.dir))
    assert f"This run is not finished : {rounds} of 2 rounds done" in page.text
    assert f"python simulations/run.py --out {run.dir} --resume" in page.text
    assert "has not been tested yet" in page.text
    assert "real or synthetic is noted when the run ends" in page.text
    assert ("No round is finished yet" in page.text) == (rounds == 0)
    assert "Diagnostics There are none: they are made from the example slices" in page.text
    assert ("nobody has trained" in page.text) == (rounds == 0)


def test_a_run_that_ended_while_baselines_ran_shows_what_is_known(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.note(DataFound(text="", sites={}, unseen_sites={}, synthetic=True, anatomies=1))
    run.train(rounds=2)
    run.note(ModelTested(scores=scores(0.0)), BaselineFinished.of("voxel_regression", scores(-1.5)))
    page = Page(build_report(run.dir))
    assert page.row("voxel regression")[1:3] == ["20.50 dB", "+1.50 dB"]
    assert "SYNTHETIC DATA (1 anatomy)" in page.text
    assert "not finished" in page.text


def test_failures_warnings_and_skipped_scans_are_listed_without_subject_ids(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN)
    run.note(
        DataFound(text="", sites={}, unseen_sites={}, skipped={"no <PD>": 3}),
        *[Warned(text="IXI002 & IXI0021 differ in spacing")] * 2,  # as after a resume
        SiteFailed(site="Guys", round=1, action="train", reason="scan of IXI004 is damaged"),
        SiteMissing(site="Guys", round=1, action="train"),
        SiteMissing(site=HOSTILE, round=2, action="evaluate"),
        UpdateRefused(site="Guys", round=2, reason="weights are not finite"),
    )
    run.train(rounds=2)
    run.finish(flags=["Guys is far below the other sites"])
    page = Page(build_report(run.dir))
    failures = page.rows[page.rows.index(["Site", "Round", "What happened", "When"]) + 1 :]
    assert [cells[:2] for cells in failures] == [["Guys", "1"], [HOSTILE, "2"], ["Guys", "2"]]
    assert failures[0][2] == "train failed: scan of (subject) is damaged"
    assert failures[1][2] == "no answer to evaluate"
    assert failures[2][2].startswith("update refused: weights are not finite")
    assert page.text.count("(subject) & IXI0021 differ in spacing") == 1
    assert page.text.count("Guys is far below the other sites") == 1
    assert "3 x no <PD>" in page.text


def test_the_last_validation_of_a_round_counts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.train(rounds=1)
    single = build_report(run.dir).read_bytes()
    run.note(ModelValidated(round=1, mean={"psnr_db": 30.0}, sites={"Guys": site_score(30, subjects=1)}))
    other = build_report(run.dir).read_bytes()
    run.note(ModelValidated(round=1, mean={"psnr_db": 19.0}, sites={"Guys": site_score(19, subjects=1)}))
    again = build_report(run.dir).read_bytes()
    assert Page(run.dir / "report.html").images
    figures = [content.split(b"data:image/svg+xml")[1].split(b'"')[0] for content in (single, other, again)]
    assert figures[0] == figures[2] != figures[1]


EPSILONS = {"Guys": {"epsilon": 9.5, "epsilon_rdp": 10.5, "epsilon_run": 7.91}}
EPSILONS[HOSTILE] = {"epsilon": 4.0, "epsilon_rdp": 4.25, "epsilon_run": 4.0}


def test_what_each_site_has_spent_stands_beside_the_budget(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN, **{"privacy.epsilon": 8.0})
    run.train(rounds=2, validation=False)
    run.finish(privacy=EPSILONS, delta=1e-5)
    page = Page(build_report(run.dir))
    assert page.row("Guys")[0] == "Guys"
    rows = [cells for cells in page.rows if cells[1:] in (["7.91", "9.50", "10.50"], ["4.00", "4.00", "4.25"])]
    assert [cells[0] for cells in rows] == ["Guys", HOSTILE]
    figure = page.svg("Epsilon of each site against the budget of 8: Guys 9.50")
    assert all(text in figure for text in ("Guys", "&lt;b&gt;x $\\frac", "epsilon (dashed: the budget of this run"))
    assert "the budget of this run is 8" in page.text


def test_a_private_run_says_how_it_was_trained(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[], **{"privacy.epsilon": 8.0})
    run.train(rounds=2, validation=False)
    run.finish()
    page = Page(build_report(run.dir))
    lots = "random lots of 50% of the subjects, each with 4 crops"
    assert f"2 rounds of 16 local steps with {lots} ·" in page.text
    (training,) = page.row("Training", number=1)[1:]
    assert training.startswith(f"2 rounds x 16 local steps x {lots} of 96 x 96; private AdamW on the norms, biases,")
    assert "clipped to norm 0.3 and noise is added; peak learning rate 0.001; loss L1" in training
    assert f"16 local steps at each site, {lots};" in page.row("AGI-Net, federated")[0]
    assert "one model per site, without privacy, 2 x 16 = 32 steps on its own scans, batch 8" in page.text


@pytest.mark.parametrize("engine", ["deployment", "in-process"])
def test_where_sites_do_not_tell_the_plan_is_shown(tmp_path: Path, engine: str) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN, **{"privacy.epsilon": 8.0, "engine": engine})
    page = Page(build_report(run.dir))
    assert "Planned for this run: at most epsilon 8 at delta 1e-05 at each site" in page.text
    assert ("Sites do not tell what they have spent" in page.text) == (engine == "deployment")


def test_a_run_without_privacy_does_not_speak_of_it(full: Page) -> None:
    assert "Patient-level privacy" not in full.text


def test_sites_with_segmentations_have_a_table_of_tumours(tmp_path: Path) -> None:
    run, tissue = Run(tmp_path / "run", unseen=UNSEEN), {"ssim_tumour": 0.61, "psnr_db_healthy": 24.5}
    run.train(rounds=2)
    sites = {"Guys": SiteScore({"psnr_db": 20.0, **tissue}, 2), HOSTILE: SiteScore({"psnr_db": 21.0}, 2)}
    run.finish(ModelTested(scores=Scores.over(sites, {"_IOP": SiteScore({"psnr_db": 19.0, "ssim_tumour": 0.5}, 1)})))
    page = Page(build_report(run.dir))
    assert ["Site", "Where", "BraSyn's SSIM", "SSIM inside", "PSNR (dB)", "MAE"] in page.rows
    assert ["Guys", "tumour", "–", "0.610", "–", "–"] in page.rows
    assert ["Guys", "healthy", "–", "–", "24.50", "–"] in page.rows
    assert ["_IOP unseen site", "tumour", "–", "0.500", "–", "–"] in page.rows
    assert not any(row[:2] in ([HOSTILE, "tumour"], ["Guys", "oedema"]) for row in page.rows)


def test_what_a_segmentation_network_finds_has_a_table_with_the_recovered_share(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=UNSEEN, **{"evaluation.segmenter": "0123456789abcdef"})
    run.train(rounds=2)
    dice = {"ceiling": 0.9, "synthetic": 0.6, "regression": 0.5, "floor": 0.1}
    told = {f"dice_{target}_{name}": value for target in ("WT", "TC") for name, value in dice.items()}
    told |= {"dice_ET_ceiling": 0.9, "dice_ET_synthetic": 0.6}  # without the floor, which the policy holds back
    told |= {"dice_WT_floor": 0.3, "dice_TC_floor": 0.95, "lesion_hd95_mm_WT_ceiling": 3.25}
    sites = {"Guys": SiteScore({"psnr_db": 20.0, **told}, 2), HOSTILE: SiteScore({"psnr_db": 21.0}, 2)}
    run.finish(ModelTested(scores=Scores.over(sites, {})))
    page = Page(build_report(run.dir))
    nothing = ["–"] * 3
    assert ["Guys", "four real scans", "0.900", "0.900", "0.900", *nothing, "3.2", "–", "–"] in page.rows
    assert ["Guys", "recovered share", "50%", "–", "–", *nothing, *nothing] in page.rows
    assert ["Guys", "recovered share of the regression", "33%", "–", "–", *nothing, *nothing] in page.rows
    assert not any(row[:2] == [HOSTILE, "four real scans"] for row in page.rows)
    assert "The network is 0123456789abcdef." in page.text
    run.finish(ModelTested(scores=Scores.over({"Guys": SiteScore({"psnr_db": 20.0}, 2)}, {})))
    assert "No site told what the segmentation network 0123456789abcdef finds" in Page(build_report(run.dir)).text


def test_the_interval_stands_with_what_it_covers_at_each_site(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.train(rounds=2)
    solved = IntervalSolved(
        said="so wide", factor=2.5, subjects={"Guys": 3}, covered={"Guys": 0.934}, left_out=[HOSTILE]
    )
    run.note(solved)
    run.note(RangeLearnt(said="known range: of 3"))
    run.finish()
    page = Page(build_report(run.dir))
    assert "Known range: of 3." in page.text
    assert "How far to trust a volume So wide." in " ".join(page.text.split())
    assert ["Guys", "3", "93%"] in page.rows
    assert [HOSTILE, "–", "–"] in page.rows
    run.note(IntervalSolved(said="no interval: nobody told", left_out=SITES))
    page = Page(build_report(run.dir))
    assert "No interval: nobody told." in page.text
    assert "Voxels within" not in page.text


def test_whose_last_layer_others_can_use(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.train(rounds=2)
    run.finish()
    assert "Last layers for other hospitals" not in Page(build_report(run.dir)).text
    run.note(LastLayersShared(sites=[HOSTILE], left_out=["Guys"]))
    page = Page(build_report(run.dir))
    assert f"--style: {HOSTILE}; without Guys. Such a layer" in page.text


def test_what_the_last_layer_for_all_is_solved_from_is_said(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.note(LastLayerSolved(sites=[HOSTILE], left_out=["Guys"], gains={HOSTILE: 0.25}))
    run.train(rounds=2)
    run.finish()
    page = Page(build_report(run.dir))
    assert f"The last layer is solved from statistics of {HOSTILE}, without Guys; validation +0.25 dB." in page.text


def test_suppressed_figures_are_called_so(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.note(
        ModelValidated(round=0, mean={}, sites={}, suppressed=SITES),
        RoundFinished(round=1, sites=SITES, train_loss={}, seconds={}),
    )
    run.finish(ModelTested(scores=NOTHING, suppressed=SITES), baselines={})
    page = Page(build_report(run.dir))
    assert page.row("Guys") == ["Guys", "–", "suppressed", *["–"] * 7]
    assert "Its test figures are suppressed by the policies of the sites" in page.text
    assert "not scored" not in page.text


def test_decisions_of_the_server_are_listed_by_site(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.note(
        PriorSolved(sites=[]),
        SiteSatOut(site="Guys", round=1, action="train", reason="budget spent"),
        UpdateClipped(site=HOSTILE, round=1, reason="3 times the limit"),
        UpdateRefused(site=HOSTILE, round=2, reason="not finite", strikes=3),
        SiteQuarantined(site=HOSTILE, round=2),
        ModelRolledBack(round=2, to=1, sites=["Guys"]),
    )
    run.train(rounds=2)
    run.finish()
    page = Page(build_report(run.dir))
    rows = page.rows[page.rows.index(["Site", "Round", "What happened", "When"]) + 1 :][:6]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", when) for *_, when in rows)
    assert [cells[:3] for cells in rows] == [
        ["–", "0", "no site told statistics, so the common prior stays as it was"],
        ["Guys", "1", "sits out of train from here on: budget spent"],
        [HOSTILE, "1", "update cut down: 3 times the limit"],
        [HOSTILE, "2", "update refused: not finite"],
        [HOSTILE, "2", "in quarantine from here on: three replies were refused, in this run or before"],
        ["Guys", "2", "the model after this round was worse here: back to the one after round 1"],
    ]
    assert "AGI-Net after round 1, mean over" in page.text


# A LONG RUN IN WHICH SITES COME AND GO


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Page:
    run_dir = tmp_path_factory.mktemp("runs") / "long"
    write_long_run(run_dir, sites=8, rounds=12)
    return Page(build_report(run_dir))


def test_the_headline_counts_the_sites_that_trained(long: Page) -> None:
    assert "trained federated over 7 of 8 invited sites, synthesises" in long.text
    assert "7 of 8 invited sites · 201 training subjects · 12 rounds" in long.text
    assert "Of 8 invited sites, 7 trained, 3 of them in every one of 12 finished rounds." in long.text


def test_who_trained_how_often_and_with_how_many_subjects(long: Page) -> None:
    began = long.rows.index(
        ["Site", "Rounds trained", "Missing", "Failed", "Refused", "Sat out", "In quarantine", "Training subjects"]
    )
    assert long.rows[began + 1 : began + 7] == [
        ["hospital01", "9 of 12", "3", "–", "–", "–", "–", "18"],
        ["hospital02", "5 of 12", "–", "–", "–", "7", "–", "21"],
        ["hospital03", "1 of 12", "–", "–", "3", "–", "8", "24"],
        ["hospital04 did not train", "0 of 12", "12", "–", "–", "–", "–", "at most 29"],
        ["hospital05", "11 of 12", "–", "1", "–", "–", "–", "30"],
        ["hospital06", "12 of 12", "–", "–", "–", "–", "–", "33"],
    ]


def test_the_grid_has_a_cell_for_each_site_and_round(long: Page) -> None:
    grid = long.source.split('<div class="grid">')[1].split("<table")[0]
    cells = {site: grid.split(f"<b>{site}</b>")[1].split("</div>")[0] for site in ("hospital01", "hospital06")}
    assert [part.count("<i") for part in cells.values()] == [12, 12]
    assert re.findall(r'title="([^"]*)"', cells["hospital01"]) == [f"round {n}: missing" for n in (4, 8, 12)]
    assert 'aria-label="hospital06: trained in 12 of 12 rounds"' in cells["hospital06"]


def test_many_sites_have_a_plot_each_and_a_line_breaks_where_a_site_was_missing(long: Page) -> None:
    panels = re.findall(r'aria-label="(hospital\d\d)"><path class="common" d="[^"]*"/><path d="([^"]*)"', long.source)
    pieces = {site: path.count("M") for site, path in panels[:7]}  # of validation
    assert pieces == {"hospital01": 3, "hospital02": 1, "hospital03": 1, "hospital05": 2} | dict.fromkeys(
        ("hospital06", "hospital07", "hospital08"), 1
    )


def test_a_run_of_many_rounds_and_sites_is_told_in_few_places(tmp_path: Path) -> None:
    write_long_run(tmp_path / "run", sites=26, rounds=130, missing=0.3)
    page = Page(build_report(tmp_path / "run"))
    grid = page.source.split('<div class="grid">')[1].split("<table")[0]
    cells = grid.split("<b>hospital01</b>")[1].split("</div>")[0]
    assert cells.count("<i") == 44  # of 3 rounds each, the last of one
    heights = {"missing 1": "33%", "missing 2": "67%", "missing 3": "100%"}
    for height, told in re.findall(r'style="--s:(\d+%)" title="rounds \d+ to \d+: ([^"]*)"', cells):
        assert heights[told] == height
    assert "A cell is 3 rounds" in page.text
    assert page.source.count("<figure>") == 2 * 24
    assert "Shown: the 24 of 25 sites that end furthest from the median over sites." in page.text
    absent = page.row("hospital04", number=3)
    assert absent[1:3] == ["1 to 130", "not connected"]
    often = page.row("hospital06", number=3)
    assert re.fullmatch(r"\d.*, … \d+ \(\d+ rounds\)", often[1])


def test_problems_that_differ_are_listed_as_far_as_a_reader_follows(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", unseen=[])
    run.note(
        *(UpdateClipped(site="Guys", round=1, reason=f"{n} times too large") for n in range(sections.MAX_PROBLEMS + 2))
    )
    page = Page(build_report(run.dir))
    assert sum("times too large" in " ".join(cells) for cells in page.rows) == sections.MAX_PROBLEMS
    assert f"The first {sections.MAX_PROBLEMS} of {sections.MAX_PROBLEMS + 2}; events.jsonl" in page.text


def test_dates_and_an_interval_over_sites(long: Page) -> None:
    assert "2026-03-02 07:30 UTC to 2026-03-02 13:42 UTC" in long.text
    assert long.row("Began")[1:] == ["2026-03-02 07:30 UTC"]
    assert re.search(
        r"mean over 7 sites: \d\d\.\d\d dB, with a 95 % confidence interval of \d\d\.\d\d dB to", long.text
    )


def test_the_browser_may_run_the_one_script_alone(long: Page) -> None:
    script = long.source.split("<script>")[1].split("</script>")[0]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in long.source


def test_a_round_in_which_all_trained_needs_no_grid(full: Page) -> None:
    assert "All 2 invited sites trained in all 2 rounds." in full.text
    assert 'class="grid"' not in full.source
    assert full.row("Guys", number=3) == ["Guys", "2 of 2", "2"]
    assert "At most" not in full.text
