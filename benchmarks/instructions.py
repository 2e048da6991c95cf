"""Instructions that a sweep of the parallel driver takes, counted by valgrind's callgrind: no timer, no noise.

The run is that of benchmarks.scaling. A count is the difference between a long and a short run, so that neither
Python's start nor the plan's tables are in it; the matrix products are, with whatever instructions valgrind's
processor has.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice

from benchmarks.scaling import sweeps

SIZES = ((32, 1), (128, 1), (32, 8))
_SHORT, _LONG = 4, 36


def table() -> Iterator[str]:
    """Lines of a Markdown table, or one line without valgrind."""
    if shutil.which("valgrind") is None:
        yield "valgrind is not installed; on Debian: apt-get install valgrind"
        return
    yield "| window | samples | instructions a sweep | per row |"
    yield "| --- | --- | --- | --- |"
    for window, n in SIZES:
        count = (_count(window, n, _LONG) - _count(window, n, _SHORT)) / (_LONG - _SHORT)
        yield f"| {window} | {n} | {count / 1e6:.2f} million | {count / window / n:,.0f} |"


def _count(window: int, n: int, calls: int) -> int:
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", "benchmarks.instructions", str(window), str(n), str(calls)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        sys.exit(f"valgrind failed: {done.stderr.strip().splitlines()[-1]}")
    return int(found[1])


if __name__ == "__main__":
    window, n, calls = map(int, sys.argv[1:])
    for _ in islice(sweeps(window, n)[0], calls):
        pass
