"""A process that records episodes, to be killed by the tests.

``write STORE COUNT`` records what is not there yet, and prints each id once it is committed.
``die-at-all STORE`` has one child process after another record an episode and kill itself (SIGKILL) at its
first, second, ... flush to the disk, until one survives; prints how many died.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from failwise.store import EpisodeStore
from store.samples import record, sample_id


def write(store: EpisodeStore, count: int) -> None:
    for seed in range(count):
        if sample_id(seed) not in store:
            print(record(store, seed).name, flush=True)


def die_at(store: EpisodeStore, flush: int) -> None:
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == flush:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    record(store, seed=flush)


def die_at_all(store: EpisodeStore) -> None:
    flush = 1
    while True:
        child = os.fork()
        if child == 0:
            die_at(store, flush)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            print(flush - 1)
            return
        flush += 1


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    {"write": write, "die-at-all": die_at_all}[action](EpisodeStore(folder), *map(int, rest))
