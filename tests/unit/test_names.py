"""Names from outside, and their safe forms."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agi_core.names import file_stem, is_site_name, shown, site_name, skeleton


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Guys", "Guys"),
        ("001", "001"),
        ("1e3", "1e3"),
        ("Guy's Hospital", "Guy_s_Hospital"),
        ("../../../outside", "outside"),
        ("/abs/x", "abs_x"),
        ("${oc.env:HOME}", "oc_env_HOME"),
        ("[bold]x[/bold]", "bold_x_bold"),
        ("<script>", "script"),
        ("K\u00f8ge", "K\u00f8ge"),
        ("Ko\u0308ln", "K\u00f6ln"),  # NFC
        ("\uff33\uff11", "S1"),  # full width
        ("\u6771\u4eac", "\u6771\u4eac"),
        ("a\x00b\u202e\udcff", "a_b"),
        ("???", None),
        ("..", None),
        ("", None),
        ("x" * 101, None),
    ],
)
def test_a_site_of_a_table_gets_a_harmless_name(text: str, name: str | None) -> None:
    assert site_name(text) == name


@given(st.text())
def test_every_name_is_safe_as_a_file_and_stays_as_it_is(text: str) -> None:
    name = site_name(text)
    if name is not None:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", file_stem(name))
        assert shown(name) == name
        assert site_name(name) == name


@example("\u00d8st", "xn--st-tha")
@given(st.text(min_size=1), st.text(min_size=1))
def test_two_sites_do_not_share_a_file(one: str, other: str) -> None:
    names = site_name(one), site_name(other)
    if None not in names and names[0] != names[1]:
        assert file_stem(str(names[0])) != file_stem(str(names[1]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hospitalA", "hospital\u0410"),  # Cyrillic
        ("HOSPITAL1", "hospitalI"),
        ("K\u00f8ge", "\u039a\u00f8ge"),  # Greek
        ("site0", "siteO"),
        ("S1", "\uff33\uff11"),
    ],
)
def test_names_that_a_reader_mixes_up_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)
    assert skeleton("hospitalA") != skeleton("hospitalB")


def test_real_sites_have_plain_names() -> None:
    assert all(map(is_site_name, ("hospitalA", "001", "no", "a-b_c")))
    assert not any(map(is_site_name, ("", "-a", "a.b", "a/b", "K\u00f8ge", "a b", "a\n", "x" * 65)))


@given(st.text())
def test_shown_text_is_one_line_of_visible_text(text: str) -> None:
    assert len(shown(text).splitlines()) <= 1
    shown(text).encode()
    assert shown(shown(text)) == shown(text)
