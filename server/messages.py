"""Flower's messages to and from a site: a request as a message, and what an answer holds."""

import logging
from collections.abc import Sequence

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from agi_core.errors import ProtocolError, RunError
from agi_core.host.console import printable
from agi_core.protocol import (
    ARRAYS,
    METRICS,
    NONCE,
    RELEASE,
    SCALARS,
    Packed,
    Reply,
    Request,
    read_reply,
    request_scalars,
)
from agi_core.release import release

log = logging.getLogger("server")
LONGEST_REASON = 200  # that is shown of a site's words
_LOST = {  # Flower's own words are for its developers
    ErrorCode.MESSAGE_UNAVAILABLE: "no answer in time",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its answer was lost on the way",
    ErrorCode.NODE_UNAVAILABLE: "its connection was lost for a minute: its node or its network failed",
    ErrorCode.CLIENT_APP_CRASHED: "its runner was lost for a minute",
}


def array_records(weights: Sequence[Packed]) -> list[ArrayRecord]:
    """Packed weights as Flower's records. The same weights share a record, and the same flat array is copied once."""
    arrays = {id(flat): flat for its in weights for flat in its.arrays.values()}
    made = {key: Array(flat) for key, flat in arrays.items()}
    records = {
        id(its): ArrayRecord({dtype: made[id(flat)] for dtype, flat in its.arrays.items()})
        for its in {id(its): its for its in weights}.values()
    }
    return [records[id(its)] for its in weights]


def request_message(request: Request, arrays: ArrayRecord, *, node_id: int, lifetime_s: float | None) -> Message:
    """A request to one node.

    Args:
        arrays: one of `array_records`. Messages that share it are cheap: Flower sends it to the SuperLink once.
        lifetime_s: Flower drops the message after so long. None: after its own default, hours.
    """
    scalars = ConfigRecord({**request_scalars(request), RELEASE: release()})
    content = RecordDict({ARRAYS: arrays, SCALARS: scalars})
    return Message(content, node_id, request.action, ttl=lifetime_s, group_id=str(request.round))


def pull_uninvited(grid: Grid) -> None:
    """Take out of the way what sites wrote without being asked; Flower hands it over with the next answer.

    Raises:
        httpx.HTTPError: the SuperLink does not answer, or not well; a client's error says that the run has ended.
    """
    try:
        list(grid.pull_messages([]))
    except httpx.HTTPError:
        raise
    except Exception as error:  # hostile bytes, of nobody knows whom
        log.warning("something came that nobody asked for, and cannot be read (%s)", type(error).__name__)


def pull_answer(grid: Grid, message_id: str) -> Message | None:
    """The answer to one message; None if it is not there yet.

    Flower reads everything that it pulls, raises whatever hostile bytes make it raise, and has then lost all of it. So
    each answer is pulled alone. Where that fails, the second attempt tells whether it was this answer that was lost.

    Raises:
        ProtocolError: the answer cannot be read. httpx.HTTPError: as `pull_uninvited` does. RunError: a process of a
            simulation was killed.
    """
    failure = ""
    for _ in range(2):
        try:
            pulled = {message.metadata.reply_to_message_id: message for message in grid.pull_messages([message_id])}
        except (httpx.TransportError, RunError):
            raise
        except Exception as error:
            if isinstance(error, httpx.HTTPStatusError) and not error.response.is_client_error:
                raise
            failure = type(error).__name__
        else:
            answer = pulled.get(message_id)
            if answer is not None and not (failure and answer.has_error()):
                return answer
            if not pulled:
                return None
            failure = failure or "it answers another message"
        pull_uninvited(grid)
    raise ProtocolError(f"the reply cannot be read: {failure}")


def reply_in(message: Message) -> Reply:
    """The reply in an answer without error.

    Raises:
        ProtocolError: it does not follow the contract. Whatever Flower and NumPy raise on hostile bytes becomes one.
    """
    content = message.content
    try:
        return read_reply(
            dict(content.config_records.get(SCALARS, {})),
            metrics={name: value for name, value in content.metric_records.get(METRICS, {}).items() if name != NONCE},
            arrays={dtype: array.numpy() for dtype, array in content.array_records.get(ARRAYS, {}).items()},
        )
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"the reply cannot be read: {type(error).__name__}") from None


def error_in(message: Message) -> str:
    """Why an answer is an error: in our words where Flower lost the site, else in the site's own, `printable`."""
    return _LOST.get(message.error.code) or printable(message.error.reason or "no reason given", longest=LONGEST_REASON)
