from pathlib import Path

from agi_core.config.explained import explained
from agi_core.config.load import load_config, read_yaml, to_yaml


def test_every_section_stands_below_the_words_of_its_class() -> None:
    lines = explained(load_config(None, overrides={})).splitlines()
    for section, words in (
        ("grid:", "# where two sizes get 32 slices. See `Task.crop` and `Task.spacing_mm`."),
        ("training:", "# not chosen: no, but a simulation measures whether the target lies in a pose of its own."),
        ("federation:", "# over the square root of its steps (None = what AdamW can do)."),
        (
            "  misalign:",
            "  # `size`: voxels (translation), degrees (rotation), a fraction (scale), mm RMS (elastic), mm and",
        ),
    ):
        above = lines[lines.index(section) - 1]
        assert above.startswith("#" if not section.startswith(" ") else "  #")
        assert above.startswith(words[:60])


def test_it_is_a_file_of_settings(tmp_path: Path) -> None:
    config = load_config(None, overrides={})
    (tmp_path / "config.yaml").write_text(explained(config))
    assert to_yaml(read_yaml(tmp_path / "config.yaml")) == to_yaml(config)
