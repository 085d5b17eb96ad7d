import re

from agi_core.report.small_multiples import MOST_PANELS, small_multiples


def test_all_panels_share_their_axes_and_names_are_escaped() -> None:
    html = small_multiples({"<a>": {1: 20.0, 3: 30.0}, "b": {2: 25.0}}, caption="It.", unit=" dB", decimals=1)
    assert "It. Every panel: round 1 to 3, 20.0 dB to 30.0 dB." in html
    assert "<b>&lt;a&gt;</b> 20.0 dB → 30.0 dB" in html
    own = re.findall(r'/><path d="([^"]*)"', html)
    assert own == ["M3.0 57.0L3.0 57.0M197.0 3.0L197.0 3.0", "M100.0 30.0L100.0 30.0"]
    assert "band" not in html


def test_of_many_sites_those_that_end_far_from_the_median_have_a_panel() -> None:
    lines = {f"site{i:02}": {1: 20.0, 2: 20.0 + i} for i in range(MOST_PANELS + 3)}
    html = small_multiples(lines, caption="It.", unit=" dB", decimals=1)
    middle = {f"site{i}" for i in (12, 13, 14)}
    assert {*re.findall(r"<b>(site\d\d)</b>", html)} == {*lines} - middle
    assert f"Shown: the {MOST_PANELS} of {MOST_PANELS + 3} sites" in html


def test_of_many_rounds_a_band_has_all_that_the_line_leaves_out() -> None:
    line = {n: 30.0 if n == 100 else 20.0 for n in range(120)}
    html = small_multiples({"a": line}, caption="It.", unit=" dB", decimals=1)
    (band,) = re.findall(r'class="band" d="([^"]*)"', html)
    heights = [float(corner.split()[1]) for corner in band.strip("MZ").split("L")]
    assert (min(heights), max(heights), len(heights)) == (3.0, 57.0, 120)  # 60 places, there and back
