import re

from agi_core.report.small_multiples import small_multiples, unbroken


def test_a_line_is_cut_where_a_round_is_missing() -> None:
    assert unbroken({1: 0.0, 2: 0.0, 5: 0.0}, [1, 2, 3, 4, 5, 6]) == [[1, 2], [5]]
    assert unbroken({}, [1, 2]) == []


def test_all_panels_share_their_axes_and_names_are_escaped() -> None:
    html = small_multiples({"<a>": {1: 20.0, 3: 30.0}, "b": {2: 25.0}}, caption="It.", unit=" dB", decimals=1)
    assert "It. Every panel: round 1 to 3, 20.0 dB to 30.0 dB." in html
    assert "<b>&lt;a&gt;</b> 20.0 dB → 30.0 dB" in html
    own = re.findall(r'/><path d="([^"]*)"', html)
    assert own == ["M3.0 57.0L3.0 57.0M197.0 3.0L197.0 3.0", "M100.0 30.0L100.0 30.0"]
