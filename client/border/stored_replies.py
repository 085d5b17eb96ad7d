"""Stored replies: a request that is asked again gets the answer that it got before, without new training.

A coordinator that was killed between a site's answer and its own checkpoint asks the same round again: same run, same
round, same weights, another nonce. The newest `KEPT` replies are in `state_dir/replies`, one safetensors file per run
and question, so they survive a restart of the runner.

A reply outlives a change of the scans themselves: what it tells has been told, and the difference of two answers to one
question would tell of whoever came, left or was scanned anew in between.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from agi_core.errors import ProtocolError, RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors
from agi_core.protocol import Reply, Request, hash_of, read_reply, reply_scalars, request_scalars
from client.site.file import Site

KEPT = 8
log = logging.getLogger("client")


def stored(site: Site, request: Request) -> Reply | None:
    """The earlier reply to this request, with the nonce of this one. None when there is no such reply, it is damaged,
    or the site file has said something else of rules or scans since."""
    path = _path(site, request)
    try:
        with open_tensors(path) as file:
            header = file.metadata()
            if header["request"] != digest(request) or header["rules"] != _rules(site):
                return None
            arrays = {dtype: file.get_tensor(dtype) for dtype in file.keys()}  # noqa: SIM118  not a mapping
        reply = read_reply(json.loads(header["reply"]), metrics=json.loads(header["metrics"]), arrays=arrays)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ProtocolError) as error:
        log.warning("%s cannot be read (%s), so the request is answered anew", path, error)
        return None
    return dataclasses.replace(reply, nonce=request.nonce)


def store(site: Site, request: Request, *, reply: Reply) -> None:
    """Keep the reply; it replaces an earlier one to the same question. A full disk is logged and not raised: the reply
    itself is worth more than its copy."""
    path = _path(site, request)
    header = {
        "request": digest(request),
        "rules": _rules(site),
        "reply": json.dumps(reply_scalars(reply)),
        "metrics": json.dumps(dict(reply.metrics)),
    }
    arrays = reply.weights.arrays if reply.weights else {}
    try:
        with atomic.replacing(path) as temporary_path:
            save_file({dtype: np.ascontiguousarray(flat) for dtype, flat in arrays.items()}, temporary_path, header)
        atomic.remove_stale(path.parent)
        atomic.keep_newest(path, most=KEPT)
    except (RunError, OSError, SafetensorError) as error:
        log.warning("the reply is not kept, so a repeated request would be answered anew: %s", error)


def _path(site: Site, request: Request) -> Path:
    """One file per run and question. Its name has hexadecimal digits only: a coordinator's text never becomes a
    path."""
    question = json.dumps([request.run_id, request.action, request.subjects])
    return Path(site.state_dir) / "replies" / f"{hashlib.sha256(question.encode()).hexdigest()[:24]}.safetensors"


def _rules(site: Site) -> str:
    """What the site's file says of its scans and of what may leave: an edited rule holds for stored replies too."""
    return hashlib.sha256(repr((site.data, site.policy, site.privacy)).encode()).hexdigest()


def digest(request: Request) -> str:
    """The hash of all that the answer depends on: the request's fields but nonce, deadline and signature, and the
    weights' bytes."""
    varies = ("nonce", "deadline_s", "signature")
    fields = {name: value for name, value in request_scalars(request).items() if name not in varies}
    return hash_of(request.weights, after=json.dumps(fields, sort_keys=True))
