"""What `--check` and `--dry-run` print."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from agi_core.cells import Vocabulary, is_vocabulary, parse_vocabulary
from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig, Task
from agi_core.data.scans import discover
from agi_core.errors import ConfigError
from agi_core.layouts import LAYOUTS
from agi_core.run import progress
from agi_core.scenario import Scenario
from client.check.doubts import from_json, table
from client.check.dry_run import dry_run
from client.check.preflight import REPORT_NAME, preflight
from client.check.rows import CheckRow
from client.site.file import DeployedSite, read_deployed_site


def run_check(site_path: Path, *, scenario: str | None, console: Console) -> bool:
    """Check everything, and print the table and the data's summary; whether nothing failed.

    Raises:
        ConfigError: the site file or the scenario cannot be read.
    """

    def show(row: CheckRow) -> None:
        console.print(f"{row.state:<8} {row.what:<20} {row.found}")
        if row.fix:
            console.print(f"{'':<29} -> {row.fix}")

    with console.status("checking") as status:

        def follow(news: progress.News) -> None:
            if isinstance(news, progress.Step):
                status.update(f"{news.phase} {news.step}/{news.steps}")

        with progress.listening(follow):
            report = preflight(site_path, scenario=scenario, on_row=show)
    if report["data"]:
        _print_summary(report["data"], console)
    states = [row["state"] for row in report["rows"]]
    verdict = "ready to join" if report["ready"] else "not ready: mend what failed, then check again"
    console.print(
        f"\n{len(states)} checks: {states.count('FAILED')} failed, {states.count('warning')} warnings; {verdict}."
        f" Kept in {REPORT_NAME} of the state folder."
    )
    return bool(report["ready"])


def run_dry_run(site_path: Path, *, scenario: str | None, settings: Sequence[str], console: Console) -> None:
    """Train two steps and evaluate, and print time and memory of each.

    Raises:
        AgiError: the site file, a setting, the scans or the device cannot be used.
    """
    site = read_deployed_site(site_path)
    task = task_to_try(site.data.layout, scenario=scenario, settings=settings)
    whole = f", one cell of {task.scenario}" if is_vocabulary(task.scenario) else ""
    if whole:
        task = replace(task, scenario=str(cell_to_try(site, parse_vocabulary(task.scenario))))
    model = " ".join(settings) or "default model"
    console.print(f"{site.site}: dry run of {task.scenario}{whole}, {model}, no network")
    step_s = 0.0
    for measured in dry_run(site_path, task):
        console.print(f"  {measured.what:<48} {measured.seconds:8.2f} s  peak {measured.peak_bytes / 1e9:6.2f} GB")
        step_s = measured.seconds if "next training step" in measured.what else step_s
    steps = task.training.local_steps
    console.print(f"At this pace a round of {steps} steps trains for {steps * step_s:.0f} s. Nothing left this site.")


def cell_to_try(site: DeployedSite, vocabulary: Vocabulary) -> Scenario:
    """The first cell, so one of the most sources, that the site offers and a session here holds.

    Raises:
        ConfigError: there is none. DataError: the scans cannot be used.
    """
    offered = {*(vocabulary.modalities if site.data.modalities is None else site.data.modalities)}
    sessions = [
        {*session.paths} & offered
        for subject in discover(site.data.scans, vocabulary.modalities, least=2).subjects
        for session in subject.sessions
    ]
    for cell in vocabulary.cells:
        if any({*cell.modalities} <= held for held in sessions):
            return cell
    raise ConfigError(f"no session here holds two modalities of {vocabulary} that the site offers; --check says more")


def task_to_try(layout: str, *, scenario: str | None, settings: Sequence[str]) -> Task:
    """The task of a coordinator's run with these settings. The layout names the usual scenario and nothing else: no
    coordinator knows it.

    Raises:
        ConfigError: a setting is refused.
    """
    usual = RunConfig(scenario=LAYOUTS[layout].default_scenario)
    return load_config(None, overrides={"scenario": scenario}, assignments=settings, defaults=usual).task


def _print_summary(data: Mapping[str, Any], console: Console) -> None:
    console.print(f"\nThis site's data, {data['subjects']} subjects, {data['sessions']} sessions (stays here):")
    for modality, row in data["modalities"].items():
        spacing = " x ".join(f"{mm:.2f}" for mm in row["median_spacing_mm"])
        voxels = row["voxels"]
        console.print(
            f"  {modality:<6} {row['scans']} scans, median spacing {spacing} mm,"
            f" {voxels['minimum']:,} to {voxels['maximum']:,} voxels"
        )
    if lines := table(from_json(data["doubts"]), subjects=data["checked"]):
        console.print("\nDoubts by subject and modality (all of them in the report):")
        for line in lines:
            console.print(f"  {line}", markup=False)
