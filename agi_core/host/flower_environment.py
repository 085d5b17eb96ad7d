"""The environment of Flower's programs, at a hospital, at the coordinator and in a simulation."""

import os
import sys
from pathlib import Path

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Nothing is sent to Flower's makers. Flower reads it when it is imported."""

BIN_DIR = Path(sys.executable).parent
"""Where the programs of this very installation are: `flwr`, `flower-superlink`, `flower-supernode`."""

_LOOPBACK = ("127.0.0.1", "localhost")


def flower_environment(flwr_home: Path) -> dict[str, str]:
    """This process's environment for a program of Flower's that keeps its files in `flwr_home`.

    The program sends nothing to Flower's makers, uses no proxy for loopback or for what the user exempts, and finds
    the programs in `BIN_DIR` first.
    """
    inherited = os.environ
    hosts = ",".join((inherited.get("no_proxy", ""), inherited.get("NO_PROXY", ""), *_LOOPBACK)).split(",")
    no_proxy = ",".join(dict.fromkeys(host.strip() for host in hosts if host.strip()))
    path = os.pathsep.join((str(BIN_DIR), inherited.get("PATH", os.defpath)))
    return inherited | QUIET | {"FLWR_HOME": str(flwr_home), "NO_PROXY": no_proxy, "no_proxy": no_proxy, "PATH": path}
