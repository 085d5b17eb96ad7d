"""What runs at a hospital: it alone reads scans."""

import agi_core.host.installed  # noqa: F401
