"""Names of the figures of `agi_core.metrics`, for programs that do without torch: a hospital's supervisor, say."""

METRIC_NAMES = tuple(f"{name}{where}" for where in ("", "_foreground") for name in ("psnr_db", "ssim", "mae", "nmse"))
VALIDATION_METRIC_NAMES = tuple(f"validation_{name}" for name in METRIC_NAMES)
