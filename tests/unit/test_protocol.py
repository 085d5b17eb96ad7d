import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agi_core.errors import ProtocolError, TransportError
from agi_core.protocol import (
    PROTOCOL_VERSION,
    Packed,
    Reply,
    Request,
    model_hash,
    pack,
    read_reply,
    read_request,
    reply_scalars,
    request_scalars,
    unpack,
)

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    elements=st.integers(-9, 9),
)
WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64), "b": np.ones(2, np.float32)}


@given(st.dictionaries(st.text(min_size=1), ARRAYS, min_size=1))
def test_pack_and_unpack_are_inverse(weights: dict[str, np.ndarray]) -> None:
    packed = pack(weights)
    assert set(packed.arrays) == {str(array.dtype) for array in weights.values()}
    unpacked = unpack(packed)
    assert list(unpacked) == sorted(weights)
    for name, array in weights.items():
        assert unpacked[name].dtype == array.dtype
        np.testing.assert_array_equal(unpacked[name], array)


def test_one_flat_array_per_dtype() -> None:
    packed = pack(WEIGHTS)
    np.testing.assert_array_equal(packed.arrays["float32"], [0, 1, 2, 3, 4, 5, 1, 1])
    assert json.loads(packed.manifest) == [["a", "float32", [2, 3]], ["b", "float32", [2]], ["n", "int64", []]]


def test_the_model_hash_sees_names_and_shapes_and_neither_order_nor_values() -> None:
    same = {"n": WEIGHTS["n"], "b": np.zeros(2, np.float32), "a": WEIGHTS["a"]}
    assert model_hash(pack(WEIGHTS).manifest) == model_hash(pack(same).manifest)
    reshaped = {**WEIGHTS, "a": WEIGHTS["a"].T}
    assert model_hash(pack(WEIGHTS).manifest) != model_hash(pack(reshaped).manifest)


@given(hnp.arrays(np.float32, 5, elements=st.floats(-65504, 65504, width=32)))
def test_float16_travels_as_halves_and_arrives_as_float32(values: np.ndarray) -> None:
    weights = {**WEIGHTS, "w": values, "d": values.astype(np.float64)}
    packed = pack(weights, "float16")
    assert packed.transport == "float16"
    assert packed.manifest == pack(weights).manifest  # and so the model hash
    assert {name: flat.dtype.name for name, flat in packed.arrays.items()} == {
        "float32": "float16",
        "float64": "float64",
        "int64": "int64",
    }
    unpacked = unpack(packed)
    for name, array in weights.items():
        assert unpacked[name].dtype == array.dtype
        bound = 2**-11 * np.abs(array) + 2**-25 if array.dtype == np.float32 else 0
        assert (np.abs(unpacked[name] - array) <= bound).all()


def test_what_was_sent_tells_how_to_answer() -> None:
    assert pack(WEIGHTS).transport == "float32"
    assert pack({"n": WEIGHTS["n"]}, "float16").transport == "float32"  # nothing to halve


@pytest.mark.parametrize("value", [65520, -1e30])
def test_a_weight_too_large_for_float16_is_refused(value: float) -> None:
    with pytest.raises(TransportError, match=r"65504.*federation\.transport=float32"):
        pack({"w": np.array([1, value], np.float32)}, "float16")


def test_a_diverged_model_is_left_to_the_gate() -> None:
    """Only a value that rounding would change into infinity is refused here."""
    values = np.array([np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(unpack(pack({"w": values}, "float16"))["w"], values)


def test_halves_under_another_name_are_refused() -> None:
    for name in ("float64", "float16"):
        with pytest.raises(ProtocolError):
            unpack(Packed({name: np.zeros(1, np.float16)}, '[["w","float32",[1]]]'))


@pytest.mark.parametrize(
    "manifest",
    [
        "not json",
        '[["a","float32"]]',
        '[["a","float32",[9]]]',  # more than there is
        '[["a","float32",[1]]]',  # less than there is
        '[["a","float32",[-8]]]',
        '[["a","float32",[4]],["a","float32",[4]]]',
        '[["a","float64",[8]]]',
        '[["a","float32",[Infinity]]]',
        '[["a","float32",[8' + 64 * ",1" + "]]]",  # more axes than an array can have
        '[["a","float32",[8]],["b","float32",[0,1000000000000000000000000000000]]]',
    ],
)
def test_manifests_that_do_not_fit_are_refused(manifest: str) -> None:
    with pytest.raises(ProtocolError):
        unpack(Packed({"float32": np.zeros(8, np.float32)}, manifest))


def test_arrays_of_anything_but_numbers_are_refused() -> None:
    flat = np.zeros(8, np.dtype([("a", np.float32)]))
    with pytest.raises(ProtocolError, match="something else than numbers"):
        unpack(Packed({str(flat.dtype): flat}, json.dumps([["a", str(flat.dtype), [8]]])))


REQUEST = Request(
    action="train", run_id="run", round=3, nonce="nonce", task="{}", subjects="", deadline_s=60, weights=pack(WEIGHTS)
)
REPLY = Reply(
    run_id="run",
    round=3,
    nonce="nonce",
    num_examples=12,
    metrics={"psnr_db": 20.0},
    weights=pack(WEIGHTS),
    steps=40,
    suppressed="ssim,mae",
)


def test_messages_survive_the_wire() -> None:
    request = read_request(request_scalars(REQUEST), REQUEST.weights.arrays)
    assert dataclasses.replace(request, weights=REQUEST.weights) == REQUEST
    assert REPLY.weights is not None
    reply = read_reply(reply_scalars(REPLY), metrics=REPLY.metrics, arrays=REPLY.weights.arrays)
    assert dataclasses.replace(reply, weights=REPLY.weights) == REPLY
    assert read_reply(reply_scalars(dataclasses.replace(REPLY, weights=None)), metrics={}, arrays={}).weights is None


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": PROTOCOL_VERSION + 1},
        {"round": "3"},
        {"round": True},
        {"round": 3.0},
        {"extra": 1},
        {"nonce": 1},
        {"manifest": 7},
    ],
)
def test_fields_of_the_wrong_kind_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        read_request(request_scalars(REQUEST) | change, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "20", True, [1.0]])
def test_metrics_must_be_finite_numbers(value: object) -> None:
    with pytest.raises(ProtocolError, match="psnr_db"):
        read_reply(reply_scalars(REPLY), metrics={"psnr_db": value}, arrays={})
