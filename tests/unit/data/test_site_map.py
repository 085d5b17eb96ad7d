from pathlib import Path

import pytest

from agi_core.data.site_map import SiteMap, columns
from agi_core.data.site_map import read_site_map as read
from agi_core.errors import ConfigError, DataError

SITE_NO = "Site No (represents the originating institution)"


def subject_of(cell: str) -> str | None:
    """`P7` is a subject, `P7-000` a visit of it; anything else is neither."""
    subject = cell.split("-")[0]
    return subject if subject.startswith("P") and subject[1:].isdigit() else None


def read_site_map(path: Path) -> SiteMap:
    return read(path, subject_of=subject_of, like="P1")


def table(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "sites.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "Partition_ID,Subject_ID\n1,P1\n2,P2\n",
        "\ufeffPartition_ID,Subject_ID\r\n1,P1\r\n2,P2\r\n",
        '\nSubject_ID;"Partition_ID"\nP1;"1"\nP2;02\n',
        f"BraTS2023,Cohort Name,{SITE_NO}\nP1-000,TCGA,1\n,TCGA,1\nP2-000,CPTAC,2.0\nP2-001,CPTAC,2\n",
        "participant_id\tage\tSite_ID\n\nP1\t61\t1\nP2\t62\t2\n",
    ],
)
def test_tables_of_every_kind_give_the_site_of_each_person(tmp_path: Path, text: str) -> None:
    assert read_site_map(table(tmp_path, text)).sites == {"P1": "site1", "P2": "site2"}


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\tsite\tscore a, b, c and d (0,1,2)\nP1\t1\tx, y\nP2\t2\t\n",
        'participant_id\thanded\tsite\nP1\t"left" handed\t1\nP2\t"right\t2\n',
        '"participant_id"\t"site"\n"P1"\t"1"\n"P2"\t2\n',
        "participant_id,site\nP1,1\nP2,2\n",
    ],
)
def test_in_a_tsv_tabs_separate_and_quotes_are_letters(tmp_path: Path, text: str) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text(text)
    assert read_site_map(path).sites == {"P1": "site1", "P2": "site2"}


def test_tabs_win_where_a_title_has_as_many_commas(tmp_path: Path) -> None:
    path = table(tmp_path, "id\tsite\tage, or, so\nP1\tOslo\t3\n")
    assert read_site_map(path).sites == {"P1": "Oslo"}


def test_a_row_may_name_one_person_in_several_columns(tmp_path: Path) -> None:
    path = table(tmp_path, f"BraTS2023,BraTS2021,{SITE_NO}\nP1-000,P501,Oslo\nP2-000,,Bergen\n")
    site_map = read_site_map(path)
    assert site_map.sites == {"P1": "Oslo", "P501": "Oslo", "P2": "Bergen"}
    assert site_map.rows_without({"P501"}) == 1
    assert site_map.rows_without({"P1", "P2", "P9"}) == 0


@pytest.mark.parametrize("row", ["P2,", "P2,n/a", "P2, ", "P2"])
def test_a_row_without_a_site_maps_nobody(tmp_path: Path, row: str) -> None:
    site_map = read_site_map(table(tmp_path, f"id,site\nP1,A\n{row}\n"))
    assert site_map.sites == {"P1": "A"}


def test_two_sites_of_one_person_are_refused_with_both_lines(tmp_path: Path) -> None:
    path = table(tmp_path, "Partition_ID,Subject_ID\n1,P1-000\n2,P2\n1,P1-001\n3,P1-002\n")
    with pytest.raises(DataError, match=r"P1 is at site1 in line 2 and at site3 in line 5"):
        read_site_map(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", r"its columns are \(none\)"),
        ("Subject_ID,Ward\nP1,A\n", "its columns are Subject_ID, Ward.*Partition_ID"),
        ("Partition_ID,Subject_ID\n1,Q1\n", r"names no subject.* in Subject_ID \(first: line 2 .*: Q1\).*--layout"),
        ("Partition_ID,Subject_ID\n", "names no subject"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        read_site_map(table(tmp_path, text))


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "Partition_ID,Subject_ID\n1,P1\n", encoding="utf-16")
    with pytest.raises(DataError, match="not UTF-8"):
        read_site_map(path)


def test_spreadsheets_and_missing_files_are_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="save it as CSV"):
        read_site_map(tmp_path / "mapping.xlsx")
    with pytest.raises(ConfigError, match=r"sites\.csv: No such file.*--sites"):
        read_site_map(tmp_path / "sites.csv")
    with pytest.raises(ConfigError, match="directory"):
        read_site_map(tmp_path)


def test_a_table_need_not_tell_sites(tmp_path: Path) -> None:
    assert not columns(table(tmp_path, "participant_id\tage\nsub-01\t30\n")).site
    assert columns(table(tmp_path, "participant_id\tCentre\nsub-01\tA\n")).site == (1,)


def test_names_of_sites_become_safe_ones_and_are_told(tmp_path: Path) -> None:
    path = table(tmp_path, "id,site\nP1,../../../outside\nP2,/abs/x\nP3,Guy's Hospital\nP4,K\u00f8ge\nP5,${x}\n")
    site_map = read_site_map(path)
    assert list(site_map.sites.values()) == ["outside", "abs_x", "Guy_s_Hospital", "K\u00f8ge", "x"]
    assert "the site Guy_s_Hospital is called Guy's Hospital in the table" in site_map.notes
    assert len(site_map.notes) == 4


def test_two_sites_that_look_alike_are_told(tmp_path: Path) -> None:
    site_map = read_site_map(table(tmp_path, "id,site\nP1,Oslo\nP2,\u041eslo\nP3,Bergen\n"))
    assert site_map.notes == ("the sites Oslo and \u041eslo look alike; is it one hospital, written in two ways?",)
    assert len({*site_map.sites.values()}) == 3


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("id,site\nP1,a/b\nP2,a b\n", "the sites a/b and a b would both be called a_b"),
        ("id,site\nP1,???\n", r"line 2: '\?\?\?' cannot be the name of a site"),
        (f"id,site\nP1,{'x' * 101}\n", "cannot be the name of a site"),
        ("id,site\nP1,St. Louis, MO\n", "line 2 has more cells than the header"),
        ('id,site\nP1,"Oslo\nP2,Bergen\n', "line 3: unexpected end of data"),
        ("name,site\nP1,Oslo\n", "has no column that names the subjects; its columns are name, site"),
    ],
)
def test_what_would_be_guessed_is_refused(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        read_site_map(table(tmp_path, text))


def test_only_the_columns_that_name_the_person_of_the_row_are_read(tmp_path: Path) -> None:
    site_map = read_site_map(table(tmp_path, "participant_id,twin_of,site,center\nP1,P2,A,X\nP3,,B,Y\n"))
    assert site_map.sites == {"P1": "A", "P3": "B"}
    assert site_map.notes == ("sites are read from the column site of sites.csv, not from center",)


@pytest.mark.parametrize("title", ["Subject ID", "participant_id", "BraTS_2020_subject_ID", "Brats20ID", "IXI_ID"])
def test_titles_of_the_column_of_subjects(tmp_path: Path, title: str) -> None:
    assert read_site_map(table(tmp_path, f"{title},Site Name\nP1,A\n")).sites == {"P1": "A"}
