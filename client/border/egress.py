"""The one way out: every answer and every refusal that leaves a site is made here, and noted in the audit first.

What may leave is named in `agi_core.protocol` and nowhere else. An answer holds the round's weights, the number of
examples, and the means of `ALLOWED_METRICS`, finite and rounded. A refusal holds a code and a fixed sentence. No path,
subject identifier, date or exception text can pass, because no other field exists.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agi_core.errors import AgiError, PolicyError, ProtocolError, RunError
from agi_core.host.console import printable
from agi_core.protocol import (
    ALLOWED_METRICS,
    ERROR_COUNTS,
    ERROR_STATISTICS,
    EVALUATE,
    LAST_LAYER,
    OF_LAST_LAYER,
    RANGE,
    REFUSED,
    Packed,
    Reply,
    Request,
    hash_of,
)
from client.border import audit, stored_replies
from client.border.audit import OF_NO_MODEL, AuditRow, Decision
from client.site.file import Site

DECIMALS = 5
LONGEST_REASON = 200
DAY_S = 86_400
log = logging.getLogger("client")


@dataclass(frozen=True)
class Refusal:
    """All that leaves instead of a reply: REFUSED or FAILED, and a public sentence."""

    code: int
    reason: str


def let_out(reply: Reply, *, request: Request, site: Site, subjects: int) -> Reply:
    """Check a reply, hold back what the site's policy does not allow, and note it in the audit; the reply as it leaves.

    A site that has fewer subjects than its policy's minimum tells no figure: all its metrics are held back, and so is
    the number of subjects that an evaluation scored. So are all metrics of an answer too many on one model, or within a
    day. The names of what is held back are in `suppressed`. What a site tells of its errors and of its known range are
    figures in the place of weights: they leave with their metric, or not at all. Its last layer and the statistics for
    one for all count as figures, and leave where `policy.share_last_layer` says so. Other statistics and poses without
    noise count as figures of the day.

    Args:
        subjects: how many the whole site has.

    Raises:
        ProtocolError: a metric is unknown, not finite, or may not leave with privately trained weights.
        PolicyError: no more statistics and poses leave on this day.
        RunError: the audit cannot be written, or is damaged; nothing may leave.
    """
    for name, value in reply.metrics.items():
        if name not in ALLOWED_METRICS:
            raise ProtocolError(f"metric {name} may not leave the site; allowed: {', '.join(sorted(ALLOWED_METRICS))}")
        if not math.isfinite(value):
            raise ProtocolError(f"metric {name} is {value}; only finite values leave the site")
        noisy = site.privacy and site.privacy.validation and name.startswith("validation_")
        if site.privacy and reply.weights is not None and not noisy:
            raise ProtocolError(f"metric {name} may not leave with privately trained weights")

    policy, small = site.policy, subjects < site.policy.minimum_subjects
    allowed = {
        name: round(value, DECIMALS)
        for name, value in reply.metrics.items()
        if not small and (policy.metrics is None or name in policy.metrics)
    }
    layer: dict[str, float] = {}
    of_layer = OF_LAST_LAYER.get(request.subjects)
    if of_layer and reply.weights is not None and policy.share_last_layer and not small:
        layer = {of_layer: _size(reply.weights)}
    of_no_model: dict[str, float] = {}
    asked = request.subjects if request.action == EVALUATE else ""
    if asked in OF_NO_MODEL and reply.weights is not None and not site.privacy:
        of_no_model = {asked: _size(reply.weights)}
    model = hash_of(request.weights)
    if allowed or layer or of_no_model:
        rule = _limit_reached(site, stored_replies.digest(request), model=None if of_no_model else model)
        if rule and of_no_model:
            raise PolicyError(f"{rule}: so many answers with figures have left today, and {asked} count as one")
        if rule:
            log.warning("figures are held back: %s", rule)
            allowed = layer = {}
    held_back = sorted({*reply.metrics, *filter(None, reply.suppressed.split(","))} - {*allowed})
    if request.subjects in (ERROR_STATISTICS, ERROR_COUNTS, RANGE) and not allowed:
        reply = dataclasses.replace(reply, weights=None)
    if of_layer and not layer:
        reply, held_back = dataclasses.replace(reply, weights=None), sorted({*held_back, of_layer})
    if request.subjects == LAST_LAYER and not layer:
        from agi_core.run.own_weights import own_weights_path  # here, because it brings torch

        kept = own_weights_path(Path(site.state_dir), run_id=request.run_id).exists()
        use = "; to use it: synthesize --head with this site's state_dir" if kept else ""  # no path: this is printed
        log.info("this site's own last layer stays here%s", use)
    num_examples = reply.num_examples
    if small and reply.weights is None and num_examples:
        num_examples, held_back = 0, [*held_back, "num_examples"]
    reply = dataclasses.replace(reply, metrics=allowed, num_examples=num_examples, suppressed=",".join(held_back))

    weights = reply.weights
    row = AuditRow(
        run=printable(request.run_id),
        round=request.round,
        action=printable(action_of(request)),
        decision=Decision.ANSWERED,
        request=stored_replies.digest(request),
        model=model,
        left={"num_examples": num_examples, "steps": reply.steps, **allowed, **layer, **of_no_model},
        held_back=held_back,
        weights_bytes=sum(flat.nbytes for flat in weights.arrays.values()) if weights else 0,
        weights_sha256=hash_of(weights) if weights else "",
    )
    audit.append(Path(site.state_dir), row)
    return reply


def _size(weights: Packed) -> int:
    return sum(flat.size for flat in weights.arrays.values())


def _limit_reached(site: Site, request: str, *, model: str | None) -> str:
    """The rule by which no more answers with figures leave, of this model (None = they are of no model) or on this day;
    "" while they may. An answer that left before may leave again.

    Raises:
        RunError: the audit cannot be read, or is damaged.
    """
    policy, now_s = site.policy, time.time()
    if policy.answers_per_model is None and policy.answers_per_day is None:
        return ""
    told = audit.told(Path(site.state_dir))
    if request in told.requests:
        return ""
    for name, limit, count in (
        ("answers_per_model", policy.answers_per_model, 0 if model is None else told.of_model[model]),
        ("answers_per_day", policy.answers_per_day, told.since(now_s - DAY_S)),
    ):
        if limit is not None and count >= limit:
            return f"policy.{name}={limit}"
    return ""


def refuse(error: AgiError, *, code: int = REFUSED, asked: Mapping[str, object], site: Site | None) -> Refusal:
    """What leaves of an error: its public sentence, noted in the audit. The sentence tells nothing of the site, so it
    leaves even where the audit cannot be written.

    Args:
        asked: the scalars of the request, as they came.
        site: None when the site file cannot be read, so that nobody knows where the audit is.
    """
    refusal = Refusal(code, " ".join(error.public.split())[:LONGEST_REASON])
    if site is None:
        return refusal
    round = asked.get("round")
    row = AuditRow(
        run=printable(asked.get("run_id", "")),
        round=round if isinstance(round, int) else 0,
        action=printable(f"{asked.get('action', '')} {asked.get('subjects', '')}".strip()),
        decision=Decision.REFUSED if code == REFUSED else Decision.FAILED,
        reason=refusal.reason,
    )
    try:
        audit.append(Path(site.state_dir), row)
    except RunError as failure:
        log.error("%s", failure)
    return refusal


def action_of(request: Request) -> str:
    """What is asked, as the audit calls it: `train`, `train keys`, `evaluate test`."""
    return f"{request.action} {request.subjects}".strip()
