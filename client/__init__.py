"""What runs at a hospital: it alone reads scans."""

import agi_core  # noqa: F401  it names a missing environment
