"""The figures of a site's test in tumour and healthy tissue, where a segmentation lies beside the scans, and what a
segmentation network still finds of the tumour with the predicted scan (`agi_core.scoring.tissue`)."""

import logging
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import numpy as np
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.errors import DataError, RunError
from agi_core.metric_table import SEGMENTED_METRIC_NAMES, TISSUE_METRIC_NAMES
from agi_core.scoring.tissue import Truth, files_of, segmented_figures, tissue_figures
from agi_core.segmentation.segmenter import Segmenter, read_segmenter
from agi_core.segmentation.visits import MODALITIES, SEG
from client.work.job import Job

log = logging.getLogger("client")


class Tissue:
    """Takes the volumes of a test as they are predicted, and has their means in the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files = files_of(job.site.data.scans)
        self._scans = {
            (subject.id, session.name): session.paths[job.network.scenario.target]
            for subject in job.scans.subjects.all
            for session in subject.sessions
        }
        self._segmenter = asked_segmenter(job) if self.found else None
        self._figures: dict[str, list[dict[str, float]]] = defaultdict(list)  # of each subject, by visit

    @property
    def found(self) -> bool:
        """Whether the site has a segmentation."""
        return any(SEG in files for files in self._files.values())

    def add(self, session: CachedSession, prediction: Tensor, target: Tensor, head: Tensor) -> None:
        """One visit: each (D, H, W)."""
        visit = session.subject_id, session.session
        seg = self._files.get(visit, {}).get(SEG)
        if seg is None:
            return
        try:
            truth = Truth.on(session.grid, seg=seg, scan=self._scans[visit])
            figures = tissue_figures(prediction.numpy(), target.numpy(), head.numpy(), truth)
            self._figures[session.subject_id].append(figures | self._segmented(session, prediction))
        except DataError as error:
            log.warning("a segmentation is not used: %s", error)

    def _segmented(self, session: CachedSession, prediction: Tensor) -> dict[str, float]:
        """What the segmentation network finds, if there is one."""
        if self._segmenter is None:
            return {}
        try:
            figures, why_not = segmented_figures(
                self._segmenter,
                prediction.numpy(),
                session.grid,
                files=self._files,
                visit=(session.subject_id, session.session),
                target=self._job.network.scenario.target,
                scan=self._scans[session.subject_id, session.session],
            )
        except DataError as error:
            figures, why_not = {}, [f"not segmented: {error}"]
        except Exception:  # the network comes from elsewhere, and no other figure hangs on it
            log.exception("%s: not segmented", session.subject_id)
            figures, why_not = {}, []
        for reason in why_not:
            log.warning("%s: %s", session.subject_id, reason)
        return figures

    def means(self, subjects: Collection[str]) -> dict[str, float]:
        """Over these subjects, those of the other figures. A figure that some of them lack is held back: beside the
        others it would tell of a few. So is one that all lack: which figures there are would tell who has a tumour."""
        means = {}
        segmented = SEGMENTED_METRIC_NAMES if self._segmenter else ()
        for name in (*TISSUE_METRIC_NAMES, *segmented):
            of_visits = [[its[name] for its in self._figures[subject] if name in its] for subject in sorted(subjects)]
            if all(of_visits):
                means[name] = float(np.mean([np.mean(values) for values in of_visits]))
            else:
                self._job.held_back.append(name)
        return means


def asked_segmenter(job: Job) -> Segmenter | None:
    """The site's segmentation network, if it is the one that the task asks for, and the site offers the four modalities
    that it is given: figures of what a site hides would tell who has it."""
    asked, path, offered = job.task.evaluation.segmenter, job.site.segmenter, job.site.data.modalities
    if asked is None:
        return None
    if offered is not None and (hidden := [name for name in MODALITIES if name not in offered]):
        log.warning("no Dice: the segmentation network needs %s, which data.modalities does not offer", hidden)
        return None
    if path is None:
        log.warning("no Dice: the task asks for the segmentation network %s, and the site file names none", asked)
        return None
    try:
        segmenter = read_segmenter(Path(path))
    except RunError as error:
        log.warning("no Dice: %s", error)
        return None
    if segmenter.hash != asked:
        log.warning("no Dice: the task asks for the segmentation network %s; %s is %s", asked, path, segmenter.hash)
        return None
    return segmenter
