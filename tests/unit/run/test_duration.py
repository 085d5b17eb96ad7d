import pytest

from agi_core.run.duration import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.5, "1 min 00 s"),
        (60, "1 min 00 s"),
        (3725, "62 min 05 s"),
        (7199, "119 min 59 s"),
        (7200, "2 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
