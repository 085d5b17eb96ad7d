"""What a person sees while a simulation runs: one line per round, and on a terminal a live line with site, step and
time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from agi_core.config.schema import RunConfig
from agi_core.run import progress
from agi_core.run.duration import duration
from agi_core.run.progress import Event, Step


class Display:
    """Listens to steps and events. The time left is that of all rounds, or of one site's baseline, at the pace so far;
    on anything but a terminal only the lines are printed."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console, self._config = console, config
        self._steps_left = 0  # of all rounds
        self._paced, self._started, self._steps_timed = "", 0.0, 0
        self._validation = ""
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}  {task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._live.add_task("starting", total=1, note="")

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show progress within the block."""
        with progress.listening(self._hear), self._live:
            yield

    def _hear(self, news: Step | Event) -> None:
        if isinstance(news, Step):
            self._step(news)
            return
        rounds, sites = self._config.rounds, self._config.federation.sites
        match news["event"]:
            case "round_started":
                self._steps_left = (rounds - news["round"] + 1) * len(sites) * self._config.training.local_steps
                self._live.update(
                    self._bar, description=f"round {news['round']}/{rounds}"
                )  # Ray's workers report no steps
            case "validated" if news["mean"]:
                self._validation = f"validation {news['mean']['psnr_db']:.2f} dB"
                scores = "  ".join(f"{site} {row['psnr_db']:.1f}" for site, row in news["sites"].items())
                when = f"after round {news['round']}/{rounds}" if news["round"] else "before training"
                self._line(f"{when}: {self._validation}   [{scores}]")
            case "round_finished" if not self._validation:  # no site tells of its validation
                losses = "  ".join(f"{site} {loss:.4f}" for site, loss in news["train_loss"].items())
                if losses:
                    told = f"training loss   [{losses}]"
                elif self._config.privacy.on:
                    told = "trained privately, so the sites tell no figures"
                else:
                    told = "figures suppressed by the sites' policies"
                self._line(f"after round {news['round']}/{rounds}: {told}")
            case "site_failed" | "site_missing" | "site_sat_out" | "update_clipped" | "update_refused":
                what = news["event"].replace("_", " ")
                self._line(f"round {news['round']}: {news['site']}: {what}: {news.get('reason', 'no answer')}")
            case "site_quarantined":
                self._line(f"round {news['round']}: {news['site']} is in quarantine and is not asked any more")
            case "rolled_back":
                worse = ", ".join(news["sites"])
                self._line(f"the model after round {news['round']} is worse at {worse}: back to round {news['to']}")
            case "baseline_finished":
                final = news["final"]
                score = f"{final['psnr_db']:.2f} dB" if final else "nobody to test on"
                self._line(f"baseline {news['name'].replace('_', ' ')}: {score}")

    def _step(self, step: Step) -> None:
        note = self._validation
        if step.loss is not None:
            note = f"loss {step.loss:.4f}  {self._time_left(step)}{note}"
        self._live.update(
            self._bar, description=f"{step.phase}  {step.site}", completed=step.step, total=step.steps, note=note
        )

    def _time_left(self, step: Step) -> str:
        """Empty at the first step, which has no pace yet."""
        if step.phase.startswith("round"):
            self._steps_left -= 1
            work, left = "rounds", self._steps_left
        else:
            work, left = f"{step.phase} {step.site}", step.steps - step.step
        if work != self._paced:
            self._paced, self._started, self._steps_timed = work, time.monotonic(), 0
            return ""
        self._steps_timed += 1
        return f"{duration(left * (time.monotonic() - self._started) / self._steps_timed)} left  "

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def result_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    """Rows of PSNR, SSIM, MAE and subjects."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "PSNR dB", "SSIM", "MAE", "subjects"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        if not row:  # nobody to test
            continue
        formats = {"psnr_db": ".2f", "ssim": ".4f", "mae": ".4f", "subjects": ".0f"}
        table.add_row(name, *(format(row[key], digits) if key in row else "" for key, digits in formats.items()))
    return table
