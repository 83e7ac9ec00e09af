"""How long a person waits for the first word: ``failwise --help`` and the help of every verb.

    python benchmarks/startup.py             # some seconds

Each figure is the median of fresh processes, interleaved.

    help_s              failwise --help; budget 0.5 s
    slowest_verb_s      the slowest of failwise VERB --help
    VERB_help_s         each of them
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from failwise import cli
from figures import announce

VERBS = tuple(cli.VERBS)


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("failwise")), *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    runs: dict[str, list[float]] = {name: [] for name in ("", *VERBS)}
    for repeat in range(1 + repeats):
        for name, found in runs.items():
            taken = seconds([*([name] if name else []), "--help"])
            if repeat:  # the first one fills the file cache
                found.append(taken)
    median = {name: statistics.median(found) for name, found in runs.items()}
    for name, taken in median.items():
        print(f"  {' '.join(['failwise', *name.split(), '--help']):26s} {taken:6.2f} s")
    figures = {"help_s": median[""], "slowest_verb_s": max(median[v] for v in VERBS)}
    figures |= {f"{verb}_help_s": median[verb] for verb in VERBS}
    announce("startup", figures)


if __name__ == "__main__":
    main()
