"""Settings as plain text: what is written comes back, whatever it looks like."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from agi_core.config.structured import nested, parse, quoted, read_file, to_yaml, typed
from agi_core.errors import ConfigError

LOOK_ALIKES = ("001", "0012", "no", "on", "1e3", "1_000", "0x1f", "~", "null", "", "???", "${x}", "${", "\\${x}", "<<")
NAMES = st.one_of(st.sampled_from(LOOK_ALIKES), st.text(st.characters(exclude_characters="\0", exclude_categories=())))


@dataclass(frozen=True)
class Part:
    name: str = "part"
    size: float | None = None


@dataclass(frozen=True)
class Whole:
    name: str = "whole"
    names: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    on: bool = False
    part: Part = field(default_factory=Part)


@given(NAMES, st.lists(NAMES, max_size=3), NAMES)
@example("???", ["${oc.env:HOME}"], "da${ta")
@example("\u2028", ["a\nb", "\u2029 "], "\x85")
def test_every_name_comes_back_from_yaml(name: str, names: list[str], inner: str) -> None:
    whole = Whole(name, tuple(names), part=Part(inner))
    assert typed(Whole, parse(to_yaml(whole))) == whole
    assert parse(f"name: {quoted(name)}  # and a comment\n") == {"name": name}
    assert "\n" not in quoted(name)


@pytest.mark.parametrize("name", [name for name in LOOK_ALIKES if name not in ("~", "null", "") and "{" not in name])
def test_a_name_that_a_person_writes_without_quotes_keeps_its_form(name: str) -> None:
    assert typed(Whole, parse(f"name: {name}\n")).name == name


def test_types_decide_what_text_means() -> None:
    text = "{name: 001, names: [1, no], counts: {a: 3}, on: yes, part: {size: 1e-3}}"
    assert typed(Whole, parse(text)) == Whole("001", ("1", "no"), {"a": 3}, True, Part(size=0.001))
    assert typed(Whole, {"part": {"size": "null"}} | parse("part: {size: null}")) == Whole()


def test_the_last_layer_wins() -> None:
    layers = nested([("name", "a"), ("part.size", 1)]), nested([("part.size", "2")])
    assert typed(Whole, *layers) == Whole("a", part=Part(size=2.0))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("nam: x", "Did you mean one of: 'name'"),
        ("counts: {a: many}", r"setting counts\.a"),
        ("names: x", "needs a list"),
        ("part: 3", "setting part: 3 stands where settings of its own"),
        ("{~: 3}", "None"),
    ],
)
def test_wrong_names_and_types_are_named(text: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        typed(Whole, parse(text))


def test_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        typed(Whole, {"name": "a\0b"})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"name: a\nname: b\n", r"name is set twice .*line 2, column 1"),
        (b"name: a\npart:\n  x: 1\n  x: 2\n", r"x is set twice .*line 4, column 3"),
        (b"name: \xff\n", "codec can't decode"),
        (b"- a\n", "is a list"),
        (b"hello\n", "is a list or one text"),
        (b"!!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=cause) as caught:
        read_file(tmp_path / "x.yaml", kind="config file")
    assert f"config file {tmp_path / 'x.yaml'}" in str(caught.value)


def test_other_programs_read_the_same_text() -> None:
    whole = Whole("no", ("001", "true"), {"a": 3}, part=Part("K\u00f8ge", 0.5))
    read = yaml.safe_load(to_yaml(whole))
    assert read["name"] == "no"
    assert read["names"] == ["001", "true"]
    assert read["part"] == {"name": "K\u00f8ge", "size": 0.5}
