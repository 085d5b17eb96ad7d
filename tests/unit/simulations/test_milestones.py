"""Which rounds leave a slice behind. What they leave is seen in `tests/integration/test_run.py`."""

from simulations.milestones import MILESTONES


def test_the_longer_a_run_the_fewer_of_its_rounds() -> None:
    assert [round for round in range(1001) if round in MILESTONES] == [0, 1, 4, 16, 64, 256]
