"""A segmentation network of toy size, trained in a second."""

from collections.abc import Callable
from pathlib import Path

from agi_core.segmentation.segmenter import Segmenter, SegmenterSettings
from agi_core.segmentation.training import train_segmenter


def train_toy(root: Path, on_step: Callable[[int, int, float], None] | None = None) -> Segmenter:
    """Trained on the subjects of `root`."""
    settings = SegmenterSettings(channels=(8, 16), patch=(16, 16, 16), steps=40, learning_rate=2e-2)
    return train_segmenter(root, settings, on_step=on_step)[0]
