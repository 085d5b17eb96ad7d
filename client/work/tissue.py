"""The figures of a site's test in tumour and healthy tissue, where a segmentation lies beside the scans
(`agi_core.scoring.tissue`)."""

import logging
from collections import defaultdict
from collections.abc import Collection

import numpy as np
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.errors import DataError
from agi_core.metric_table import TISSUE_METRIC_NAMES
from agi_core.scoring.tissue import Truth, segmentations, tissue_figures
from client.work.job import Job

log = logging.getLogger("client")


class Tissue:
    """Takes the volumes of a test as they are predicted, and has their means in the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._segs = segmentations(job.site.data.scans)
        self._scans = {
            (subject.id, session.name): session.paths[job.network.scenario.target]
            for subject in job.scans.subjects.all
            for session in subject.sessions
        }
        self._figures: dict[str, list[dict[str, float]]] = defaultdict(list)  # of each subject, by visit

    @property
    def found(self) -> bool:
        """Whether the site has a segmentation."""
        return bool(self._segs)

    def add(self, session: CachedSession, prediction: Tensor, target: Tensor, head: Tensor) -> None:
        """One visit: each (D, H, W)."""
        visit = session.subject_id, session.session
        if visit not in self._segs:
            return
        try:
            truth = Truth.on(session.grid, seg=self._segs[visit], scan=self._scans[visit])
        except DataError as error:
            log.warning("a segmentation is not used: %s", error)
            return
        self._figures[session.subject_id].append(
            tissue_figures(prediction.numpy(), target.numpy(), head.numpy(), truth)
        )

    def means(self, subjects: Collection[str]) -> dict[str, float]:
        """Over these subjects, those of the other figures. A figure that some of them lack is held back: beside the
        others it would tell of a few. So is one that all lack: which figures there are would tell who has a tumour."""
        means = {}
        for name in TISSUE_METRIC_NAMES:
            of_visits = [[its[name] for its in self._figures[subject] if name in its] for subject in sorted(subjects)]
            if all(of_visits):
                means[name] = float(np.mean([np.mean(values) for values in of_visits]))
            else:
                self._job.held_back.append(name)
        return means
