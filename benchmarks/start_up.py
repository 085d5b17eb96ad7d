"""The CPU time until a command has printed its help: user and system, as the operating system accounts it.

python -m benchmarks.start_up
"""

import resource
import subprocess
import sys
from statistics import median

from benchmarks.commit import commit

COMMANDS = ("-m agi_core", "-m agi_core evaluate", "-m server", "-m server submit", "simulations/run.py", "-m client")
TURNS = 3


def main() -> None:
    turns = [[cpu_s(command) for command in COMMANDS] for _ in range(TURNS)]
    print(f"commit {commit()}, median of {TURNS} turns\n\n| command | CPU s |\n|---|---|")
    for command, seconds in zip(COMMANDS, zip(*turns, strict=True), strict=True):
        print(f"| `python {command} --help` | {median(seconds):.2f} |")


def cpu_s(command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command.split(), "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
