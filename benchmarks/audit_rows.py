"""What it costs to note a message in a site's audit, after so many rows.

python -m benchmarks.audit_rows
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path

from agi_core.host.hash_chain import seal
from client.border.audit import NAME, AuditRow, Decision, append

ROW = AuditRow(
    run="0" * 32,
    round=1,
    action="train",
    decision=Decision.ANSWERED,
    request="0" * 64,
    left={f"figure_{number}": 0.5 for number in range(12)},
    weights_bytes=20_000_000,
    weights_sha256="0" * 64,
)
TURNS = 20


def main() -> None:
    print("| rows before | first row of a process, ms | every other row, ms |\n|---|---|---|")
    for count in (100, 10_000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            lines, head = [], ""
            for number in range(count):
                lines.append(seal(dataclasses.asdict(ROW), n=number, previous=head))
                head = json.loads(lines[-1])["hash"]
            Path(folder, NAME).write_text("\n".join(lines) + "\n")
            first = cpu_ms(Path(folder), rows=1)
            print(f"| {count:,} | {first:.0f} | {cpu_ms(Path(folder), rows=TURNS):.1f} |", flush=True)


def cpu_ms(state_dir: Path, *, rows: int) -> float:
    """Of each of these rows, in CPU time."""
    started = time.process_time()
    for _ in range(rows):
        append(state_dir, ROW)
    return 1000 * (time.process_time() - started) / rows


if __name__ == "__main__":
    main()
