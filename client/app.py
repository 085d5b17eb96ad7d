"""The Flower ClientApp: unpack the request, let the trainer answer, pack the reply. No exception text leaves the
site."""

import logging
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from agi_core.errors import AgiError
from agi_core.protocol import ARRAYS, METRICS, SCALARS, Reply, Request, read_request, reply_scalars
from client.egress import leave
from client.site import read_site
from client.trainer import answer

REFUSED, FAILED = 1001, 1002  # error codes of ours: an expected refusal, an unexpected failure
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
        private = read_site(site_path).privacy is not None
        reply = leave(answer(site_path, _read(message)), private=private)
        return Message(_records(reply), reply_to=message)
    except AgiError as error:
        log.error("%s: %s", site_path.stem, error)
        return Message(Error(code=REFUSED, reason=error.public), reply_to=message)
    except Exception:
        log.exception("%s: the request could not be answered", site_path.stem)
        return Message(Error(code=FAILED, reason=AgiError.public), reply_to=message)


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
