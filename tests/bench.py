"""`make bench`: how long what a user waits for takes, beside what the issue asks; prints, never fails.

python tests/bench.py [--home DIR]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AUGURY = [sys.executable, "-m", "benchmark.cli"]


def seconds(*arguments: str) -> float:
    start = time.monotonic()
    subprocess.run([*AUGURY, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def show(what: str, found: float, wanted: str) -> None:
    print(f"{what:52} {found:8.2f} s   wanted: {wanted}", flush=True)


def main() -> None:
    from benchmark.phantoms import PHANTOMS, draw

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where to run; default a new folder, so that nothing is cached")
    home = parser.parse_args().home or Path(tempfile.mkdtemp())
    print(f"{os.cpu_count()} cores")
    show("augury --help, best of three", min(seconds("--help") for _ in range(3)), "under 0.5 s")
    for name in PHANTOMS:
        start = time.monotonic()
        draw(name, 2000, 64, 0)
        show(f"{name}, 10,000 images of 64 px (from 2,000)", 5 * (time.monotonic() - start), "under 30 s")
    show("augury run quick", seconds("run", "quick", "--home", str(home)), "under 300 s")
    show("augury run quick again", seconds("run", "quick", "--home", str(home)), "under 15 s")
    show("augury report quick", seconds("report", "quick", "--home", str(home)), "no torch")


if __name__ == "__main__":
    main()
