"""Equal doubts are put together: what a tired engineer reads of 600 subjects fits on a screen."""

from client.check.doubts import UNUSABLE, DoubtedScan, rows_of, table


def scan(number: int, modality: str, cause: str, found: str = "x") -> DoubtedScan:
    return DoubtedScan(f"IXI{number}", modality, f"/data/IXI{number}-{modality}.nii.gz", cause, found)


def test_nothing_is_doubted() -> None:
    assert table([], subjects=600) == [*rows_of([])] == []


def test_subjects_with_the_same_doubts_share_a_line() -> None:
    scans = [scan(number, "T1", "it is odd") for number in range(100, 105)]
    scans += [scan(101, "PD", "it is dark"), scan(7, "T1", "it is dark"), scan(9, "T2", UNUSABLE)]
    assert table(scans, subjects=600) == [
        "subjects                           PD  T1  T2",
        "IXI100, IXI102, IXI103 and 1 more  -   a   -",
        "IXI101                             b   a   -",
        "IXI7                               -   b   -",
        "IXI9                               -   -   c",
        "593 others                         -   -   -",
        "a  it is odd, in 5 scans",
        "b  it is dark, in 2 scans",
        "c  cannot be used: see the rows above, in 1 scan",
    ]


def test_a_scan_may_have_several_doubts() -> None:
    lines = table([scan(1, "T1", "it is odd"), scan(1, "T1", "it is dark")], subjects=1)
    assert lines[1] == "IXI1      a b"


def test_one_row_for_each_cause_and_none_for_what_has_its_own() -> None:
    scans = [scan(1, "T1", "it is odd", "by 3 mm"), scan(2, "T2", "it is odd"), scan(3, "T1", "it is dark", "4 %")]
    odd, dark = rows_of([*scans, scan(9, "T2", UNUSABLE)])
    assert odd.found == "it is odd, in 2 scans (first: /data/IXI1-T1.nii.gz: by 3 mm)"
    assert (dark.what, dark.found) == ("scan IXI3 T1", "/data/IXI3-T1.nii.gz: it is dark (4 %)")


def test_six_hundred_subjects_with_one_doubt_fit_on_a_screen() -> None:
    scans = [scan(number, modality, "it is odd") for number in range(600) for modality in ("T1", "T2", "PD")]
    assert len([*rows_of(scans)]) == 1
    assert len(table(scans, subjects=600)) == 3
