"""One deployed run, from where it stands to its summary and its report."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agi_core.cells import name_of
from agi_core.errors import AgiError
from agi_core.report.report import build_report
from agi_core.run import progress, run_folder
from agi_core.run.event_log import events_of, read_events
from agi_core.run.events import BaselineFinished
from agi_core.run.summary import summarise, write_summary
from server.follow import follow
from server.rounds import Rounds


def carry_out(run_dir: Path, rounds: Callable[[], Rounds]) -> None:
    """Run what is left of the run, which this process holds, then write its summary and its report.

    Raises:
        AgiError: it cannot go on; its report is written all the same.
    """
    with progress.listening(partial(follow, run_dir)):
        try:
            rounds().run()
            baselines = {event.name: event.scores for event in events_of(run_dir, BaselineFinished)}
            config = run_folder.open_existing(run_dir)
            summary = summarise(run_dir, config, wall_s=read_events(run_dir)[-1].t_s, baselines=baselines)
            write_summary(run_dir, summary)
        except AgiError:
            with contextlib.suppress(AgiError):  # the disk may be full
                build_report(run_dir)
            raise
        build_report(run_dir)
        for flag in summary.flags:
            print(f"{name_of(run_dir)}: warning: {flag}", flush=True)
