from agi_core.report.blocks import Place, blocks, places, ranges


def test_few_rounds_stay_alone_and_many_come_together() -> None:
    assert blocks([1, 2, 3], 3) == [[1], [2], [3]]
    assert blocks([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert blocks([], 2) == []


def test_a_line_is_cut_where_a_round_is_missing() -> None:
    pieces = places({1: 0.0, 2: 0.0, 5: 0.0}, [1, 2, 3, 4, 5, 6], 6)
    assert [[place.round for place in piece] for piece in pieces] == [[1, 2], [5]]
    assert places({}, [1, 2]) == []


def test_a_place_tells_what_its_rounds_span_and_breaks_where_all_are_missing() -> None:
    line = {1: 4.0, 2: 1.0, 3: 1.0, 9: 7.0}
    assert places(line, range(1, 10), 3) == [[Place(2, 1.0, 2.0, 4.0)], [Place(8, 7.0, 7.0, 7.0)]]


def test_rounds_in_words() -> None:
    assert ranges([7]) == "7"
    assert ranges([3, 1, 2, 5]) == "1 to 3, 5"
    assert ranges([1, 2, 4, 6, 8], most=3) == "1 to 2, 4, … 8 (5 rounds)"
