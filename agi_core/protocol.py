"""The message contract between coordinator and sites: scalars and numpy arrays, no Flower types.

Weights travel as one flat array per dtype plus a manifest (names, dtypes, shapes, order): Flower's cost is per object,
not per byte. Each request carries a nonce that its reply must echo. The manifest's hash is the *model hash*: a site
refuses weights whose manifest differs from that of the model it built itself from the task.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agi_core.errors import MismatchError, ProtocolError, TransportError
from agi_core.metric_table import (
    FAULTY,
    METRIC_NAMES,
    PERSONAL_METRIC_NAMES,
    SEGMENTED_METRIC_NAMES,
    TISSUE_METRIC_NAMES,
    VALIDATION_METRIC_NAMES,
)

PROTOCOL_VERSION = 5
ARRAYS, SCALARS, METRICS = "arrays", "scalars", "metrics"  # the records of a message
NONCE = "nonce"  # of the metrics' record: a number that is not a metric, and makes the record unlike any other
RELEASE = "release"  # a scalar of a request: which program asks (`agi_core.release`)
TRAIN, EVALUATE = "train", "evaluate"
REFUSED, FAILED = 1001, 1002  # codes of error replies: an expected refusal, an unexpected failure
VALIDATION, TEST, ALL = "validation", "test", "all"  # which of a site's subjects are scored
POSES, POSES_ARRAY = "poses", "offsets_mm"  # how far sources lie from the target; see `agi_core.poses`
ERROR, DISAGREEMENT = "error", "disagreement"  # of experts of a blend; see `agi_core.experts`
BLEND = "blend"  # all subjects, by a blend of the experts that came
RMS_ERROR, RMS_DISAGREEMENT = "rms_error", "rms_disagreement"
ERROR_STATISTICS, ERROR_COUNTS = "error statistics", "error counts"  # of validation; see `agi_core.pooled_errors`
CALIBRATION_SUBJECTS = "calibration_subjects"  # how many subjects these are of; without it they do not leave
RANGE = "known range"  # of training subjects; see `agi_core.pooled_range`
RANGE_SUBJECTS = "range_subjects"  # as CALIBRATION_SUBJECTS
LAST_LAYER, LAST_LAYER_ARRAY = "last layer", "last_layer"  # the site's own, where its policy lets it leave
LAYER_STATISTICS = "last layer statistics"  # what a last layer for all is solved from, where it lets that leave
OF_LAST_LAYER = {LAST_LAYER: LAST_LAYER_ARRAY, LAYER_STATISTICS: "last_layer_statistics"}
"""{question: what its answer is called where it leaves, or is held back}"""
STATISTICS = "statistics"  # of a site's training subjects, of which the common prior is solved; see `agi_core.ridge`
ALONE = "alone"  # the test subjects, by a model that the site trains alone from the weights that came
REGRESSIONS = "regressions"  # the test subjects, by the prior that came without its network, and by the site's own
REGRESSION_OF_ALL = "regressions of all"  # all subjects, by the prior that came
KEYS = "keys"  # of a training request: the site's key for the secure sum that the next one asks for
ALLOWED_METRICS = frozenset(
    (
        *(*METRIC_NAMES, *PERSONAL_METRIC_NAMES, *TISSUE_METRIC_NAMES, *VALIDATION_METRIC_NAMES),
        *SEGMENTED_METRIC_NAMES,
        *("validation_subjects", "train_loss", "seconds", FAULTY, RMS_ERROR, RMS_DISAGREEMENT),
        *(CALIBRATION_SUBJECTS, RANGE_SUBJECTS),
    )
)
"""All that a reply's metrics may ever hold; a site's policy can allow less."""

Transport = Literal["float32", "float16"]  # what float32 weights are while they travel
Weights = dict[str, NDArray[Any]]
Scalars = dict[str, int | float | str]


@dataclass(frozen=True)
class Packed:
    """Weights on the wire: `arrays` maps a dtype's name to one flat array of it; `manifest` is JSON [[name, dtype,
    shape], ...].

    The manifest tells the model's own dtypes. With float16 transport the values of "float32" are halves, which are
    float32 again as soon as they are unpacked: nothing is trained or summed in half precision."""

    arrays: Mapping[str, NDArray[Any]]
    manifest: str

    @property
    def transport(self) -> Transport:
        """How these weights travel; a site answers in kind."""
        flat = self.arrays.get("float32")
        return "float16" if flat is not None and flat.dtype == np.float16 else "float32"

    def beside(self, name: str, array: NDArray[Any]) -> "Packed":
        """These weights and one more array. Flat arrays of other dtypes are shared, and not copied."""
        dtype = str(array.dtype)
        flat = np.concatenate([self.arrays.get(dtype, array[:0].ravel()), array.ravel()])
        rows = [*json.loads(self.manifest), [name, dtype, list(array.shape)]]
        return Packed({**self.arrays, dtype: flat}, json.dumps(rows, separators=(",", ":")))


@dataclass(frozen=True, kw_only=True)
class Request:
    """Coordinator to site. `task` is the JSON of an `agi_core.config.schema.Task`. `subjects` says whom an evaluation
    scores, or what else it asks for; or that a training request asks for a key alone. `secure_sum` is the JSON of an
    `agi_core.secure_sum.Attempt`; "" = the weights leave as they are. `study` is the JSON of the
    `agi_core.study.WholeStudy` that the run is a cell of; "" = the run is a study of its own.

    `deadline_s` is the time in seconds that the site has for its answer. `signature`: see `agi_core.signatures`."""

    action: str
    run_id: str
    round: int
    nonce: str
    task: str
    subjects: str
    deadline_s: int
    weights: Packed
    secure_sum: str = ""
    study: str = ""
    signature: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Site to coordinator. `num_examples` = training subjects of the site (its weight in the average), or subjects
    scored by an evaluation.

    `metrics` are means over the site's subjects; `suppressed` names those that the site's policy holds back, separated
    by commas ("" = none). `weights` are those of the trained model, statistics, poses, counts of errors or moments of
    sources where these were asked for (`agi_core.ridge`, `agi_core.poses`, `agi_core.pooled_errors`,
    `agi_core.pooled_range`), a vector or a key of a secure sum, or None. `steps` are the optimiser steps that led to
    them.
    """

    run_id: str
    round: int
    nonce: str
    num_examples: int
    metrics: Mapping[str, float]
    weights: Packed | None
    steps: int = 0
    suppressed: str = ""


def pack(weights: Mapping[str, NDArray[Any]], transport: Transport = "float32") -> Packed:
    """Concatenate named arrays, in the order of their names, into one flat array per dtype.

    Raises:
        TransportError: a weight is too large for float16 transport.
    """
    by_dtype: dict[str, list[NDArray[Any]]] = {}
    manifest = []
    for name, array in sorted(weights.items()):
        by_dtype.setdefault(str(array.dtype), []).append(array.reshape(-1))
        manifest.append([name, str(array.dtype), list(array.shape)])
    arrays = {dtype: np.concatenate(parts) for dtype, parts in by_dtype.items()}
    if transport == "float16" and "float32" in arrays:
        arrays["float32"] = _halves(arrays["float32"])
    return Packed(arrays, json.dumps(manifest, separators=(",", ":")))


def _halves(flat: NDArray[Any]) -> NDArray[np.float16]:
    """The nearest float16 of each value, at most 2^-11 of it away (below 6e-5: at most 3e-8)."""
    try:
        with np.errstate(over="raise"):
            return flat.astype(np.float16)
    except FloatingPointError:
        raise TransportError(
            f"a weight of {np.abs(flat).max():.3g} is too large for float16 transport (at most 65504); run with"
            " federation.transport=float32 (a run that exists: in the config.yaml of its folder)"
        ) from None


def unpack(packed: Packed) -> Weights:
    """The named arrays of `pack` in the dtypes of the manifest, as views of the flat arrays.

    Raises:
        ProtocolError: manifest and arrays do not fit each other exactly.
    """
    parts, dtypes = Parts(packed), {name: dtype for name, dtype, _ in _rows(packed.manifest)}
    return {name: array.astype(dtypes[name], copy=False) for name, array in parts.items()}


class Parts(Mapping[str, NDArray[Any]]):
    """The named arrays of packed weights, each looked up when it is asked for, as a view of a flat array. With float16
    transport they are halves.

    Raises:
        ProtocolError: manifest and arrays do not fit each other exactly.
    """

    def __init__(self, packed: Packed) -> None:
        self._arrays = packed.arrays
        self._places: dict[str, tuple[str, int, tuple[int, ...]]] = {}  # dtype, start, shape
        flats = {
            dtype: (flat.size, flat.ndim, str(flat.dtype))
            for dtype, flat in packed.arrays.items()
            if flat.dtype.kind in "fiu"
        }
        if len(flats) < len(packed.arrays):
            raise ProtocolError("an array holds something else than numbers")
        position = dict.fromkeys(flats, 0)
        for name, dtype, shape in _rows(packed.manifest):
            total, axes, found = flats.get(dtype, (0, 0, ""))
            if axes != 1 or found not in (dtype, "float16" if dtype == "float32" else dtype):
                raise ProtocolError(f"{name}: no flat array of dtype {dtype} came with the manifest")
            start, size = position[dtype], math.prod(shape)
            if min(shape, default=0) < 0 or name in self._places or start + size > total:
                raise ProtocolError(
                    f"{name}: shape {shape} does not fit the {total} values of dtype {dtype}, or the name stands twice"
                )
            self._places[name] = dtype, start, shape
            position[dtype] = start + size
        for dtype, end in position.items():
            if end != flats[dtype][0]:
                raise ProtocolError(f"{flats[dtype][0] - end} values of dtype {dtype} are not named in the manifest")

    def __getitem__(self, name: str) -> NDArray[Any]:
        dtype, start, shape = self._places[name]
        try:
            return self._arrays[dtype][start : start + math.prod(shape)].reshape(shape)
        except (ValueError, OverflowError):
            raise ProtocolError(f"{name}: no array has a shape like this, of {len(shape)} axes") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _rows(manifest: str) -> list[tuple[str, str, tuple[int, ...]]]:
    try:
        return [(str(name), str(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in json.loads(manifest)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"the manifest cannot be read: {error}") from None


def model_hash(manifest: str) -> str:
    """Twelve hexadecimal digits that name a model's parameter names, dtypes and shapes."""
    return hashlib.sha256(manifest.encode()).hexdigest()[:12]


def hash_of(weights: Packed, *, after: str = "") -> str:
    """SHA-256 of the text `after` and then of the weights' bytes, as hexadecimal digits."""
    content = hashlib.sha256(after.encode())
    for dtype, flat in sorted(weights.arrays.items()):
        content.update(dtype.encode())
        content.update(np.ascontiguousarray(flat).data)
    return content.hexdigest()


def request_scalars(request: Request) -> Scalars:
    """Everything of a request but the arrays."""
    return _scalars(request)


def reply_scalars(reply: Reply) -> Scalars:
    """Everything of a reply but arrays and metrics."""
    return _scalars(reply)


def read_request(scalars: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Request:
    """The request that `request_scalars` and its arrays describe.

    Raises:
        ProtocolError: another protocol version, or a field missing, unknown or of the wrong type.
    """
    fields = _fields(scalars, Request)
    return Request(**fields, weights=Packed(dict(arrays), _manifest(scalars)))


def read_reply(scalars: Mapping[str, Any], *, metrics: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
    """The reply that `reply_scalars`, its metrics and arrays describe. Raises ProtocolError like `read_request`."""
    fields = _fields(scalars, Reply)
    for name, value in metrics.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ProtocolError(f"metric {name}={value!r} is not a finite number")
    weights = Packed(dict(arrays), _manifest(scalars)) if arrays else None
    return Reply(**fields, metrics={name: float(value) for name, value in metrics.items()}, weights=weights)


_WIRE_TYPES: dict[Any, type] = {int: int, str: str}


def _wire_fields(kind: type[Request] | type[Reply]) -> dict[str, type]:
    return {f.name: _WIRE_TYPES[f.type] for f in dataclasses.fields(kind) if f.type in _WIRE_TYPES}


def _scalars(message: Request | Reply) -> Scalars:
    scalars: Scalars = {"protocol": PROTOCOL_VERSION}
    scalars |= {name: getattr(message, name) for name in _wire_fields(type(message))}
    if message.weights is not None:
        scalars["manifest"] = message.weights.manifest
    return scalars


def _fields(scalars: Mapping[str, Any], kind: type[Request] | type[Reply]) -> dict[str, Any]:
    version = scalars.get("protocol")
    if version != PROTOCOL_VERSION:
        raise MismatchError("protocol version", theirs=repr(version)[:40], ours=PROTOCOL_VERSION)
    expected = _wire_fields(kind)
    unknown = sorted(set(scalars) - set(expected) - {"protocol", "manifest"})
    if unknown:
        raise ProtocolError(f"unknown fields: {', '.join(unknown)}")
    for name, wire_type in expected.items():
        if type(scalars.get(name)) is not wire_type:
            raise ProtocolError(f"field {name}={scalars.get(name)!r} must be of type {wire_type.__name__}")
    return {name: scalars[name] for name in expected}


def _manifest(scalars: Mapping[str, Any]) -> str:
    manifest = scalars.get("manifest")
    if not isinstance(manifest, str):
        raise ProtocolError("arrays came without a manifest")
    return manifest
