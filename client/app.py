"""The Flower ClientApp: unpack the request, let the trainer answer, pack the reply. No exception text leaves the
site."""

import logging
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from agi_core.errors import AgiError, ExhaustedError
from agi_core.protocol import ARRAYS, FAILED, METRICS, REFUSED, SCALARS, Reply, Request, read_request, reply_scalars
from client import answers
from client.egress import leave
from client.site import DeployedSite, read_site
from client.trainer import answer, release_memory

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
    site = read_site(_site_path(context)).site
    return Message(RecordDict({SCALARS: ConfigRecord({"site": site})}), reply_to=message)


def _answer(message: Message, context: Context) -> Message:
    site_path = _site_path(context)
    try:
        return Message(_records(_reply(site_path, _read(message))), reply_to=message)
    except AgiError as error:
        log.error("%s: %s", site_path.stem, error)
        failure = Error(code=REFUSED, reason=error.public)
    except (torch.OutOfMemoryError, MemoryError):
        log.exception(
            "%s: out of memory; free some, or ask the coordinator for smaller crops or batches", site_path.stem
        )
        failure = Error(code=FAILED, reason=ExhaustedError.public)
    except Exception:
        log.exception("%s: the request could not be answered", site_path.stem)
        failure = Error(code=FAILED, reason=AgiError.public)
    if failure.reason == ExhaustedError.public:
        release_memory()  # only here are the exception and the tensors that its frames held gone
    return Message(failure, reply_to=message)


def _reply(site_path: Path, request: Request) -> Reply:
    """The stored reply to a repeated request, or a new one."""
    site = read_site(site_path)
    private = site.privacy is not None
    if not isinstance(site, DeployedSite):
        return leave(answer(site_path, request), private=private)
    state_dir = Path(site.state_dir)
    reply = answers.stored(state_dir, request)
    if reply is None:
        reply = leave(answer(site_path, request), private=private)
        answers.store(state_dir, request, reply)
    return reply


def _site_path(context: Context) -> Path:
    return Path(str(context.node_config["site-config"]))


def _read(message: Message) -> Request:
    scalars = message.content.config_records.get(SCALARS, ConfigRecord())
    arrays = message.content.array_records.get(ARRAYS, ArrayRecord())
    return read_request(dict(scalars), {dtype: array.numpy() for dtype, array in arrays.items()})


def _records(reply: Reply) -> RecordDict:
    records = RecordDict(
        {SCALARS: ConfigRecord(dict(reply_scalars(reply))), METRICS: MetricRecord(dict(reply.metrics))}
    )
    if reply.weights is not None:
        records[ARRAYS] = ArrayRecord({dtype: Array(flat) for dtype, flat in reply.weights.arrays.items()})
    return records
