import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.host.hash_chain import seal, sha256, unseal

NAMES = st.text().filter(lambda name: name not in ("n", "previous", "hash"))
RECORDS = st.dictionaries(NAMES, st.integers() | st.text())


@given(RECORDS, st.integers(0, 99), st.text("0123456789abcdef", max_size=64))
def test_a_line_comes_back_with_its_place(record: dict[str, object], n: int, previous: str) -> None:
    line = seal(record, n=n, previous=previous).encode()
    opened = unseal(line, n=n, previous=previous)
    assert {name: opened[name] for name in record} == record
    with pytest.raises(ValueError, match="damaged"):
        unseal(line, n=n + 1, previous=previous)
    with pytest.raises(ValueError, match="damaged"):
        unseal(line, n=n, previous=previous + "0")


def test_the_hash_is_that_of_the_canonical_line_without_it() -> None:
    line = seal({"b": 1, "a": "x"}, n=0, previous="")
    assert json.loads(line)["hash"] == sha256('{"a":"x","b":1,"n":0,"previous":""}')


@pytest.mark.parametrize("line", [b"", b"[]", b"7", b"{}", b"{", b"\xff"])
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unseal(line, n=0, previous="")


@given(st.data())
def test_every_damaged_byte_shows(data: st.DataObject) -> None:
    line = bytearray(seal({"left": {"psnr_db": 20.5}, "run": "r"}, n=3, previous="ab").encode())
    position, bit = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, 7))
    line[position] ^= 1 << bit
    with pytest.raises(ValueError, match="damaged"):
        unseal(bytes(line), n=3, previous="ab")
