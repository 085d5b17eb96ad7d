"""The Flower ClientApp: unpack the request, let the trainer answer, pack the reply. No exception text leaves the
site."""

import logging
import secrets
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from agi_core import signatures
from agi_core.config.load import read_task
from agi_core.errors import AgiError, ExhaustedError, MismatchError, ProtocolError
from agi_core.host.console import printable
from agi_core.host.device import open_device
from agi_core.protocol import (
    ARRAYS,
    FAILED,
    METRICS,
    NONCE,
    REFUSED,
    RELEASE,
    SCALARS,
    Reply,
    Request,
    read_request,
    reply_scalars,
)
from agi_core.release import release
from agi_core.run import progress
from client.border import consent, stored_replies
from client.border.cause import cause
from client.border.egress import let_out, refuse
from client.site.file import DeployedSite
from client.site.opened import OpenSite, open_site
from client.work.networks import release_memory
from client.work.trainer import answer

log = logging.getLogger("client")
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Validate the incoming weights, train them for one round, send them back."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the incoming weights."""
    return _answer(message, context)


@app.query()
def name(message: Message, context: Context) -> Message:
    """The site's name, for engines that do not know their nodes by name (simulation)."""
    site = open_site(_site_path(context)).file
    if isinstance(site, DeployedSite):
        refusal = refuse(ProtocolError("a deployed site is known by its key"), asked=_scalars(message), site=site)
        return Message(Error(code=refusal.code, reason=refusal.reason), reply_to=message)
    return Message(RecordDict({SCALARS: ConfigRecord({"site": site.site})}), reply_to=message)


def _answer(message: Message, context: Context) -> Message:
    site_path, file = _site_path(context), None
    failure: AgiError
    try:
        site = open_site(site_path)
        file = site.file
        return Message(_records(_reply(site, _read(message))), reply_to=message)
    except AgiError as error:
        log.error("%s: %s", site_path.stem, error)
        code, failure = REFUSED, error
        progress.report(progress.Refused(cause(error)))
    except (torch.OutOfMemoryError, MemoryError):
        log.exception(
            "%s: out of memory; free some, or ask the coordinator for smaller crops or batches", site_path.stem
        )
        code, failure = FAILED, ExhaustedError()
    except Exception:
        log.exception("%s: the request could not be answered", site_path.stem)
        code, failure = FAILED, AgiError()
    if isinstance(failure, ExhaustedError):
        release_memory()  # only here are the exception and the tensors that its frames held gone
    refusal = refuse(failure, code=code, asked=_scalars(message), site=file)
    return Message(Error(code=refusal.code, reason=refusal.reason), reply_to=message)


def _reply(site: OpenSite, request: Request) -> Reply:
    """The stored reply to a repeated request, or a new one, as it leaves."""
    file = site.file
    if isinstance(file, DeployedSite):  # nobody but this program can write to a simulated one
        signatures.check(request, file.coordinator.public_key, site=file.site)
    task = read_task(request.task)
    if isinstance(file, DeployedSite) and file.policy.studies == "ask":
        consent.check_agreed(Path(file.state_dir), request)
    reply = stored_replies.stored(file, request) if isinstance(file, DeployedSite) else None
    if reply is None:
        device = open_device(file.device, threads=file.threads, deterministic=file.deterministic, compiled=file.compile)
        reply = answer(site, request, task, device=device)
        if isinstance(file, DeployedSite):
            stored_replies.store(file, request, reply=reply)
    return let_out(reply, request=request, site=file, subjects=len(site.scans(task).subjects.all))


def _site_path(context: Context) -> Path:
    return Path(str(context.node_config["site-config"]))


def _scalars(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records.get(SCALARS, ConfigRecord())) if message.has_content() else {}


def _read(message: Message) -> Request:
    scalars, arrays = _scalars(message), message.content.array_records.get(ARRAYS, ArrayRecord())
    if (theirs := scalars.pop(RELEASE, None)) != release():
        raise MismatchError("release", theirs=printable(theirs), ours=release())
    return read_request(scalars, {dtype: array.numpy() for dtype, array in arrays.items()})


def _records(reply: Reply) -> RecordDict:
    """The reply as records, each with a random part.

    Flower names a record by its hash, and refuses it where another site has announced that name with other parts. So
    nobody must be able to guess the hash of a record: that of no metrics, or of weights that nobody trained."""
    metrics = MetricRecord({NONCE: secrets.randbits(63), **reply.metrics})
    records = RecordDict({SCALARS: ConfigRecord(dict(reply_scalars(reply))), METRICS: metrics})
    if reply.weights is not None:
        records[ARRAYS] = ArrayRecord({dtype: _unlike_any(flat) for dtype, flat in reply.weights.arrays.items()})
    return records


def _unlike_any(flat: NDArray[Any]) -> Array:
    """The array, and behind it random bytes that no reader looks at."""
    array = Array(flat)
    data = array.data + secrets.token_bytes(16)
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=data)
