import base64
import io

import matplotlib.image
import numpy as np
import pytest

from agi_core.report import figures


def pixels(uri: str) -> np.ndarray:
    """(H, W, 3) in [0, 1] of a WebP data URI."""
    kind, content = uri.split(",")
    assert kind == "data:image/webp;base64"
    image: np.ndarray = matplotlib.image.imread(io.BytesIO(base64.b64decode(content)), format="webp")[..., :3] / 255
    return image


def test_grey_shows_zero_black_one_white_and_clips() -> None:
    shown = pixels(figures.grey(np.array([[0.0, 0.5, 1.0, 7.0, -7.0]])))
    np.testing.assert_allclose(shown[0, :, 0], [0, 0.5, 1, 1, 0], atol=0.003)


def test_error_map_has_a_fixed_scale() -> None:
    """An error has one colour whatever else is in the image, and errors above the scale look like its end."""
    target = np.zeros((1, 2))
    small = pixels(figures.error_map(np.array([[0.1, 0.0]]), target))
    mixed = pixels(figures.error_map(np.array([[0.1, 0.9]]), target))
    np.testing.assert_array_equal(small[0, 0], mixed[0, 0])
    scale = pixels(figures.error_scale())
    np.testing.assert_array_equal(mixed[0, 1], scale[0, -1])
    np.testing.assert_array_equal(small[0, 1], scale[0, 0])
    assert scale[0, round(0.1 / figures.ERROR_SCALE * 255)] == pytest.approx(small[0, 0], abs=0.03)


def test_sites_have_colours_of_their_own_as_far_as_there_are_colours() -> None:
    sites = [f"site-{i}" for i in range(9)]
    assert len({figures.site_colour(sites[:7], site) for site in sites[:7]}) == 7
    assert len({figures.site_colour(sites, site) for site in sites}) == 1


def test_a_site_of_any_script_is_written_in_a_figure() -> None:
    """As text, for which a browser finds the font; matplotlib has none, and says so."""
    figure = figures.epsilons({"東京": {"epsilon": 2.0, "epsilon_run": 1.0}}, budget=8.0, sites=["東京"])
    assert "東京" in base64.b64decode(figure.split(",")[1]).decode()


def test_overlay_is_grey_where_the_source_is_flat_and_orange_on_its_edges() -> None:
    step = np.zeros((8, 8))
    step[:, 4:] = 1
    shown = pixels(figures.overlay(np.full((8, 8), 0.5), step))
    np.testing.assert_allclose(shown[:, [0, 7]], 0.5, atol=0.003)
    np.testing.assert_allclose(shown[:, 3:5], np.broadcast_to([1.0, 0.6, 0.1], (8, 2, 3)), atol=0.003)
    np.testing.assert_allclose(pixels(figures.overlay(np.full((8, 8), 0.5), np.ones((8, 8)))), 0.5, atol=0.003)


@pytest.mark.parametrize(("anterior_mm", "right_mm"), [(9.0, 0.0), (-9.0, 0.0), (0.0, 9.0), (0.0, -9.0)])
def test_an_arrow_points_to_where_the_source_is_found(anterior_mm: float, right_mm: float) -> None:
    """Up is anterior and left is right, and what lies outside of the head has no arrow."""
    head = np.zeros((55, 55), bool)
    head[27, 27] = True
    offset_mm = np.zeros((2, 55, 55)) + np.array([anterior_mm, right_mm])[:, None, None]
    shown = pixels(figures.arrows(np.zeros((55, 55)), offset_mm, where=head, spacing_mm=(2.0, 2.0)))
    orange = np.argwhere(shown[..., 0] > 0.5)
    up, left = np.array(shown.shape[:2]) / 2 - orange.mean(axis=0)
    longest = figures.ARROW_SCALE * 9 / 110 * len(shown)  # from its start, in pixels of the picture
    assert (up, left) == pytest.approx((np.sign(anterior_mm) * longest / 2, np.sign(right_mm) * longest / 2), abs=12)
    assert np.ptp(orange, axis=0).max() == pytest.approx(longest, abs=3)
