"""How large the report of a long run with many sites is, what it is made of, and what writing it costs.

python -m benchmarks.report_size [--sites 100] [--rounds 1000] [--missing 0.1]
"""

import argparse
import re
import resource
import tempfile
import time
from pathlib import Path

from agi_core.report.report import build_report
from tests.support.long_run import write_long_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--missing", type=float, default=0.1, help="part of the rounds that a site misses by chance")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        write_long_run(run_dir, sites=asked.sites, rounds=asked.rounds, missing=asked.missing)
        started = time.process_time()
        page = build_report(run_dir).read_text()
        cpu_s = time.process_time() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(page.encode()) / 1e6:.2f} MB, {cpu_s:.1f} s of CPU, peak {peak_mib:.0f} MiB")
    for title, html in re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL):
        rows, elements = html.count("<tr"), html.count("<")
        print(f"{title:40} {len(html.encode()) / 1e6:6.2f} MB, {rows:6} rows, {elements:7} tags")


if __name__ == "__main__":
    main()
