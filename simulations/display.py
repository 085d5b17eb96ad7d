"""What a person sees while a simulation runs: one line per round, and on a terminal a live line with site, step and
time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from agi_core import progress
from agi_core.config import RunConfig
from agi_core.progress import Event, Step


class Display:
    """Listens to steps and events. The time left counts training steps only, at the pace of this process so far."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console, self._config = console, config
        self._steps_left = config.rounds * len(config.federation.sites) * config.training.local_steps
        self._steps_done, self._started = 0, time.monotonic()
        self._validation = ""
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
            console=console,
            transient=True,
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
        match news["event"]:
            case "round_started":
                self._steps_left = (
                    (self._config.rounds - news["round"] + 1)
                    * len(self._config.federation.sites)
                    * self._config.training.local_steps
                )
            case "validated" if news["mean"]:
                self._validation = f"validation {news['mean']['psnr_db']:.2f} dB"
                sites = "  ".join(f"{site} {row['psnr_db']:.1f}" for site, row in news["sites"].items())
                self._line(f"after round {news['round']}/{self._config.rounds}: {self._validation}   [{sites}]")
            case "site_failed" | "site_missing" | "update_refused":
                what = news["event"].replace("_", " ")
                self._line(f"round {news['round']}: {news['site']}: {what}: {news.get('reason', 'no answer')}")
            case "baseline_finished":
                self._line(
                    f"baseline {news['name'].replace('_', ' ')}: {news['final'].get('psnr_db', float('nan')):.2f} dB"
                )

    def _step(self, step: Step) -> None:
        note = self._validation
        if step.phase.startswith("round"):
            self._steps_left -= 1
            self._steps_done += 1
            pace_s = (time.monotonic() - self._started) / self._steps_done
            note = f"loss {step.loss:.4f}  {_duration(self._steps_left * pace_s)} left  {self._validation}"
        elif step.phase == "reading scans":
            self._started = time.monotonic()  # the pace is that of training
        self._live.update(
            self._bar, description=f"{step.phase}  {step.site}", completed=step.step, total=step.steps, note=note
        )

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def result_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    """Rows of PSNR, SSIM, MAE and subjects."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "PSNR dB", "SSIM", "MAE", "subjects"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['psnr_db']:.2f}",
            f"{row['ssim']:.4f}",
            f"{row['mae']:.4f}",
            f"{row['subjects']:.0f}" if "subjects" in row else "",
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
