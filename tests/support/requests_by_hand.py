"""A deployed site on small files, and requests as a coordinator would send them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from agi_core import signatures
from agi_core.config.load import load_config, task_json
from agi_core.models.agi_net import build_model
from agi_core.protocol import (
    ARRAYS,
    EVALUATE,
    METRICS,
    NONCE,
    RELEASE,
    SCALARS,
    TRAIN,
    Request,
    Weights,
    pack,
    request_scalars,
)
from agi_core.release import release
from client.app import app
from simulations.local_grid import LocalGrid
from tests.support.small_data import SMALL

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))  # the coordinator's


def deployed_site(folder: Path, data_dir: Path, *, port: int = 9094, name: str = "Guys", rules: str = "") -> Path:
    """The path of the new site's file; `rules` are its sections policy and privacy."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"site: {name}\ndata: {{dir: {data_dir}, layout: ixi}}\ncache_dir: cache\ndevice: cpu\nstate_dir: state\n"
        f'coordinator: {{address: "127.0.0.1:1", ca_file: ca.crt, public_key: {signatures.public_line(KEY)}}}\n'
        f"key_file: {name}.key\nruntime_port: {port}\n{rules}"
    )
    return path


def small_task(*settings: str) -> tuple[str, Weights]:
    """(JSON of a task, weights that fit it)."""
    config = load_config(None, overrides={"reference": "T1"}, assignments=[*SMALL, *settings])
    model = build_model(config.model, sources=2, seed=1)
    return task_json(config.task), {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def training_request(
    task: str, weights: Weights, *, round: int = 1, nonce: str = "n", deadline_s: int = 120
) -> Request:
    return Request(
        action=TRAIN,
        run_id="run",
        round=round,
        nonce=nonce,
        task=task,
        subjects="",
        deadline_s=deadline_s,
        weights=pack(weights),
    )


def evaluation_request(subjects: str, *, task: str, weights: Weights, round: int = 2) -> Request:
    """A request that brings a model and asks about it."""
    return Request(
        action=EVALUATE,
        run_id="run",
        round=round,
        nonce="n",
        task=task,
        subjects=subjects,
        deadline_s=60,
        weights=pack(weights),
    )


def as_message(request: Request, *, site: str = "Guys", **changed: Any) -> Message:
    """The request on the wire, signed for the site, then some scalars changed."""
    LocalGrid(ClientApp(), [])  # tells Flower who the sender is
    request = signatures.sign(request, KEY, site=site)
    scalars = ConfigRecord({**request_scalars(request), RELEASE: release(), **changed})
    arrays = ArrayRecord({dtype: Array(flat) for dtype, flat in request.weights.arrays.items()})
    message = Message(RecordDict({ARRAYS: arrays, SCALARS: scalars}), 2, request.action)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def ask(site_path: Path, message: Message) -> Message:
    """What the installed ClientApp of the site answers."""
    context = Context(
        run_id=1, node_id=2, node_config={"site-config": str(site_path)}, state=RecordDict(), run_config={}
    )
    return app(message, context)


def reason(reply: Message) -> str:
    """The sentence of a refusal."""
    return str(reply.error.reason)


def metrics(reply: Message) -> dict[str, float]:
    """The figures of a reply."""
    told = reply.content.metric_records[METRICS].items()
    return {name: float(str(value)) for name, value in told if name != NONCE}


def trained(reply: Message) -> Sequence[float]:
    """The trained values of a reply."""
    values: Sequence[float] = np.asarray(reply.content.array_records[ARRAYS]["float32"].numpy()).tolist()
    return values
