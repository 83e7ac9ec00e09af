"""Hours of work with faults: does anything get lost, does memory grow, does a process stay behind?

    python benchmarks/soak.py                  # an hour on two workers
    python benchmarks/soak.py --minutes 2      # does it run at all

One executor collects in a loop on the tiny environment, so that thousands of episodes pass through the same workers.
Every fourth cycle is an evaluation as a program of its own that is killed (kill -9) at random moments, itself or one of
its workers, and started again until it is done.

    cycles, episodes, kills    what happened
    lost, doubled, unsound     episodes that are missing, there twice, or fail their checksums; must be 0
    differing                  killed cycles whose episodes are not byte for byte those of an undisturbed one; must be 0
    orphans, zombies           processes left behind; must be 0
    memory_growth              resident memory of this process and its workers, last quarter over second quarter
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from failwise.cli.options import agent_for
from failwise.rollout import RolloutItem, collect, make_executor
from failwise.store import EpisodeStore, check
from figures import announce

MARK = "FAILWISE_SOAK"
TASKS = ("tiny/push", "tiny/reach")
SEEDS = 25


def items() -> list[RolloutItem]:
    """What every cycle runs."""
    arms = {"noise": agent_for("random", TASKS), "expert": agent_for("expert", TASKS)}
    return [RolloutItem(task, s, s, arm, agent) for s in range(SEEDS) for task in TASKS for arm, agent in arms.items()]


def content(store: Path) -> dict[str, str]:
    """Digest of every recorded file."""
    return {
        str(p.relative_to(store)): sha256(p.read_bytes()).hexdigest()
        for p in store.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def marked(token: str) -> dict[int, str]:
    """Living processes that were started under this run's mark: id -> state. All but the resource tracker."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                ours = f"{MARK}={token}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if ours and b"resource_tracker" not in (folder / "cmdline").read_bytes():
                    found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
    return found


def zombies() -> int:
    """Ended children of this process that nobody has asked about."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            count += state == "Z" and int(parent) == os.getpid()
    return count


def resident_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total / 2**20


def killed_cycle(out: Path, token: str, chance: random.Random) -> int:
    """The same evaluation as a program that is killed until it gets through; returns how often."""
    command = [
        str(Path(sys.executable).with_name("failwise")), "evaluate", "--env", ",".join(TASKS),
        "--arms", "noise=random,expert=expert", "--seeds", f"0:{SEEDS}", "--out", str(out), "--workers", "2",
    ]  # fmt: skip
    kills = 0
    while True:
        program = subprocess.Popen(
            command, env={**os.environ, MARK: token}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            program.wait(chance.uniform(1.0, 9.0) if kills < 3 else None)
            if program.returncode == 0:
                return kills
            if kills >= 3:
                sys.exit(f"soak: {' '.join(command)} ends with exit code {program.returncode}")
        except subprocess.TimeoutExpired:
            family = [pid for pid in marked(token) if pid != program.pid]
            victim = chance.choice(family) if family and chance.random() < 0.5 else program.pid
            try:
                os.kill(victim, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
            program.wait(None if victim != program.pid else 30)
            if program.returncode == 0:
                return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, token = random.Random(arguments.seed), f"{os.getpid()}-{time.time_ns()}"
    counts: Counter[str] = Counter(lost=0, doubled=0, unsound=0, differing=0, orphans=0, zombies=0, kills=0)
    memory: list[float] = []
    todo = items()
    expected = {i.episode_id for i in todo}
    end = time.monotonic() + 60 * arguments.minutes
    os.environ[MARK] = token  # the workers of the executor inherit it
    executor = make_executor("processes", 2)
    reference: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            out = Path(folder) / f"cycle{counts['cycles']}"
            disturbed = counts["cycles"] % 4 == 3
            if disturbed:
                counts["kills"] += killed_cycle(out, f"{token}-killed", chance)
                store = EpisodeStore(out / "episodes", create=False)
                counts["differing"] += content(store.path) != reference
                until = time.monotonic() + 10  # a worker ends itself when its parent has gone
                while marked(f"{token}-killed") and time.monotonic() < until:
                    time.sleep(0.1)
                counts["orphans"] += len(marked(f"{token}-killed"))
            else:
                collect(todo, out, executor=executor, quiet=True)
                store = EpisodeStore(out, create=False)
                reference = reference or content(store.path)
            result = check(store)
            ids = Counter(store.ids())
            counts["episodes"] += len(ids)
            counts["lost"] += len(expected - set(ids))
            counts["doubled"] += sum(n > 1 for n in ids.values()) + len(set(ids) - expected)
            counts["unsound"] += len(result.damaged) + len(result.leftovers)
            memory.append(resident_mb([os.getpid(), *marked(token)]))
            counts["cycles"] += 1
            print(f"cycle {counts['cycles']}: {dict(counts)}, {memory[-1]:.0f} MB", file=sys.stderr)
        executor.close()
        counts["orphans"] += len(marked(token))
        counts["zombies"] += zombies()
    quarter = max(1, len(memory) // 4)
    growth = statistics.median(memory[-quarter:]) / statistics.median(memory[quarter : 2 * quarter] or memory)
    figures = {**counts, "memory_mb": memory[-1], "memory_growth": growth}
    announce("soak", figures, minutes=arguments.minutes)
    wrong = [name for name in ("lost", "doubled", "unsound", "differing", "orphans", "zombies") if counts[name]]
    if wrong:
        sys.exit(f"soak: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
