"""Flower's messages to and from a site: a request as a message, and what an answer holds."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from agi_core.errors import ProtocolError
from agi_core.protocol import ARRAYS, METRICS, SCALARS, Packed, Reply, Request, read_reply, request_scalars

_LOST = {  # Flower's own words are for its developers
    ErrorCode.MESSAGE_UNAVAILABLE: "no answer in time",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its answer was lost on the way",
    ErrorCode.NODE_UNAVAILABLE: "its connection was lost for a minute: its node or its network failed",
    ErrorCode.CLIENT_APP_CRASHED: "its runner was lost for a minute",
}


def array_record(weights: Packed) -> ArrayRecord:
    """Packed weights as Flower's record."""
    return ArrayRecord({dtype: Array(flat) for dtype, flat in weights.arrays.items()})


def request_message(request: Request, arrays: ArrayRecord, *, node_id: int, lifetime_s: float | None) -> Message:
    """A request to one node.

    Args:
        arrays: the `array_record` of the request's weights. Messages that share it are cheap: Flower sends it to the
            SuperLink once.
        lifetime_s: Flower drops the message after so long. None: after its own default, hours.
    """
    content = RecordDict({ARRAYS: arrays, SCALARS: ConfigRecord(dict(request_scalars(request)))})
    return Message(content, node_id, request.action, ttl=lifetime_s, group_id=str(request.round))


def reply_in(message: Message) -> Reply:
    """The reply in an answer without error.

    Raises:
        ProtocolError: it does not follow the contract. Whatever Flower and NumPy raise on hostile bytes becomes one.
    """
    content = message.content
    try:
        return read_reply(
            dict(content.config_records.get(SCALARS, {})),
            metrics=dict(content.metric_records.get(METRICS, {})),
            arrays={dtype: array.numpy() for dtype, array in content.array_records.get(ARRAYS, {}).items()},
        )
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"the reply cannot be read: {type(error).__name__}") from None


def error_in(message: Message) -> str:
    """Why an answer is an error: in our words where Flower lost the site, else in the site's own, `printable`."""
    return _LOST.get(message.error.code) or printable(message.error.reason or "no reason given")


def printable(text: str) -> str:
    """A site's words on one line of at most 200 characters, without a terminal's escape codes."""
    return "".join(character for character in " ".join(text.split())[:200] if character.isprintable())
