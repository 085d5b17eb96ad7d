"""One request at a site, with everything that answering it takes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agi_core.config.schema import Task
from agi_core.errors import NotPrivateError
from agi_core.network import Network
from agi_core.protocol import TRAIN, Packed, Reply, Request
from client.site.file import Site
from client.site.opened import SiteScans
from client.site.policy import SitePrivacy


@dataclass(frozen=True, kw_only=True)
class Job:
    """`request` and its `task` are what is asked, and `site` is who is asked. The answer takes the site's `scans`, and
    the `network` with the request's weights. `started_s` is the monotonic clock's time when the work began. `held_back`
    names the figures that the work leaves out by the site's policy."""

    request: Request
    task: Task
    site: Site
    scans: SiteScans
    network: Network
    started_s: float = field(default_factory=time.monotonic)
    held_back: list[str] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """The seconds until the deadline."""
        allowed_s = min(self.request.deadline_s, self.site.policy.max_deadline_s)
        return allowed_s - (time.monotonic() - self.started_s)

    @property
    def privacy(self) -> SitePrivacy:
        """The site's rules of private training. Raises NotPrivateError where it has none."""
        if self.site.privacy is None:
            raise NotPrivateError(
                f"the task asks for private training, but the file of site {self.site.site} has no section privacy,"
                " which says where its ledger is kept"
            )
        return self.site.privacy

    @property
    def private(self) -> bool:
        """Whether the training subjects are protected: the task or the site asks for it."""
        return self.task.privacy.on or self.site.privacy is not None

    def reply(self, *, num_examples: int, metrics: Mapping[str, float], weights: Packed | None = None) -> Reply:
        """The answer, before it passes the border."""
        return Reply(
            run_id=self.request.run_id,
            round=self.request.round,
            nonce=self.request.nonce,
            num_examples=num_examples,
            metrics=metrics,
            weights=weights,
            steps=self.task.training.local_steps if self.request.action == TRAIN else 0,
            suppressed=",".join(self.held_back),
        )
