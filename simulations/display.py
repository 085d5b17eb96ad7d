"""What a person sees while a simulation runs: one line per round, and on a terminal a live line for each site at work,
with step and time left."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from agi_core.config.schema import RunConfig
from agi_core.run import events, progress
from agi_core.run.duration import duration
from agi_core.run.progress import News, Step

NAMED_SITES = 12  # of more sites, a line names the lowest and the highest


def of_sites(values: Mapping[str, float], form: str, *, between: str = "  ") -> str:
    """`A 21.3  B 22.4`, in that format; of many sites from which to which."""
    if len(values) <= NAMED_SITES:
        return between.join(f"{site} {value:{form}}" for site, value in values.items())
    low, *_, high = sorted(values, key=values.__getitem__)
    return f"{len(values)} sites, from {low} {values[low]:{form}} to {high} {values[high]:{form}}"


class Display:
    """Listens to steps and events. The time left is that of all rounds, or of one site's baseline, at the pace so far;
    on anything but a terminal only the lines are printed."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console, self._config = console, config
        self._steps_left = 0  # of all rounds
        self._begun: dict[str, tuple[float, int]] = {}  # {work: (when, and how many steps were left then)}
        self._validation = ""
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}  {task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._live.add_task("starting", total=1, note="")
        self._site_bars: dict[tuple[str, str], TaskID] = {}  # {(phase, site): its line}

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show progress within the block."""
        with progress.listening(self._hear), self._live:
            yield

    def _hear(self, news: News) -> None:
        if isinstance(news, Step):
            self._step(news)
            return
        rounds, sites = self._config.rounds, self._config.federation.sites
        match news:
            case events.RoundStarted(round=round):
                self._steps_left = (rounds - round + 1) * len(sites) * self._config.training.local_steps
                self._live.update(self._bar, description=f"round {round}/{rounds}")  # Ray's workers report no steps
            case events.ModelValidated(round=round, mean={"psnr_db": psnr_db}):
                self._validation = f"validation {psnr_db:.2f} dB"
                scores = of_sites({site: score.psnr_db for site, score in news.sites.items()}, ".1f")
                when = f"after round {round}/{rounds}" if round else "before training"
                self._line(f"{when}: {self._validation}   [{scores}]")
            case events.RoundFinished(round=round) if not self._validation:  # no site tells of its validation
                losses = of_sites(news.train_loss, ".4f")
                if losses:
                    told = f"training loss   [{losses}]"
                elif self._config.privacy.on:
                    told = "trained privately, so the sites tell no figures"
                else:
                    told = "figures suppressed by the sites' policies"
                self._line(f"after round {round}/{rounds}: {told}")
            case (
                events.SiteFailed()
                | events.SiteMissing()
                | events.SiteSatOut()
                | events.UpdateClipped()
                | events.UpdateRefused()
            ):
                self._line(f"round {news.round}: {news.site}: {news.kind.replace('_', ' ')}: {news.reason}")
            case events.SiteQuarantined(site=site, round=round):
                self._line(f"round {round}: {site} is in quarantine and is not asked any more")
            case events.ModelRolledBack(round=round, to=best):
                self._line(f"the model after round {round} is worse at {', '.join(news.sites)}: back to round {best}")
            case events.BaselineFinished(name=name):
                figures = [f"{news.final['psnr_db']:.2f} dB"] if news.final else []
                if (unseen_db := news.scores.unseen_psnr_db) is not None:
                    figures.append(f"{unseen_db:.2f} dB at unseen sites")
                self._line(f"baseline {name.replace('_', ' ')}: {', '.join(figures) or 'nobody to test on'}")

    def _step(self, step: Step) -> None:
        note = self._validation
        if step.loss is not None:
            note = f"loss {step.loss:.4f}  {self._time_left(step)}{note}"
        key = step.phase, step.site
        if key not in self._site_bars:
            self._site_bars[key] = self._live.add_task(step.phase, total=step.steps, note="")
        self._live.update(self._bar, visible=False)  # the sites' own lines say more
        self._live.update(
            self._site_bars[key],
            description=f"{step.phase}  {step.site}",
            completed=step.step,
            total=step.steps,
            note=note,
        )
        if step.step == step.steps:
            self._live.remove_task(self._site_bars.pop(key))
            self._live.update(self._bar, visible=not self._site_bars, description=step.phase)

    def _time_left(self, step: Step) -> str:
        """Empty at the first step, which has no pace yet."""
        if step.phase.startswith("round"):
            self._steps_left -= 1
            work, left = "rounds", self._steps_left
        else:
            work, left = f"{step.phase} {step.site}", step.steps - step.step
        if work not in self._begun:
            self._begun[work] = time.monotonic(), left
            return ""
        begun, left_then = self._begun[work]
        return f"{duration(left * (time.monotonic() - begun) / (left_then - left))} left  "

    def _line(self, text: str) -> None:
        self._console.print(text)
