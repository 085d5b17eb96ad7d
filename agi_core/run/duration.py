"""A time span in words."""


def duration(seconds: float) -> str:
    """`59 s`, `62 min 05 s`; from two hours on `2 h 05 min`."""
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest_s:02d} s" if minutes else f"{rest_s} s"
