"""What runs at the coordinator: rounds, averaging, checkpoints. It never reads a scan."""

import agi_core.host.installed  # noqa: F401
