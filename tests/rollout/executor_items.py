"""What the executor tests run in their workers; a module of its own, as workers import it by name."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from failwise.errors import UnknownNameError


def square(n: int) -> int:
    return n * n


def note_start() -> None:
    os.environ["FAILWISE_TEST_STARTS"] = str(int(os.environ.get("FAILWISE_TEST_STARTS", "0")) + 1)


def fail_to_start() -> None:
    raise OSError("no such driver")


def die_at_start() -> None:
    os._exit(3)


def about_worker(n: int) -> tuple[int, str, str, int]:
    time.sleep(0.05)
    threads = os.environ["OMP_NUM_THREADS"]
    return os.getpid(), threads, os.environ.get("FAILWISE_TEST_STARTS", ""), threading.active_count()


def torch_threads(n: int) -> int:
    import torch

    return torch.get_num_threads()


def import_torch() -> None:
    import torch

    torch.set_num_threads(4)


def raise_at_three(n: int) -> int:
    if n == 3:
        raise ZeroDivisionError("item three")
    return n


def raise_unknown_name(n: int) -> int:
    raise UnknownNameError("critter", "cta", ["cat", "dog"])


class WrappingError(ValueError):
    """Its message is not what it was made from, so making it again from its arguments would say it twice."""

    def __init__(self, n: int) -> None:
        super().__init__(f"item {n} is bad")


def raise_wrapping(n: int) -> int:
    raise WrappingError(n)


def raise_end_of_file(n: int) -> int:
    raise EOFError("a truncated file of its own")


def raise_what_cannot_travel(n: int) -> int:
    class LocalError(ValueError):
        pass

    raise LocalError("only here", threading.Lock())


def give_what_cannot_travel(n: int) -> object:
    return threading.Lock()


def kill_itself_once(item: tuple[int, str]) -> int:
    """Item 2 kills its worker the first time that it is done."""
    n, folder = item
    mark = Path(folder) / "done-before"
    if n == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def kill_itself(n: int) -> int:
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def leave(n: int) -> int:
    os._exit(7)


def hang(n: int) -> int:
    if n == 2:
        time.sleep(600)
    return n


def hang_with_note(item: tuple[int, str]) -> int:
    """Says which process it is, then hangs."""
    n, folder = item
    (Path(folder) / f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return n


def main(folder: str) -> None:
    """A program that a test interrupts or kills: two workers, both hanging."""
    from failwise.rollout.executors import ProcessPool

    with ProcessPool(2) as pool:
        try:
            list(pool.map(hang_with_note, [(0, folder), (1, folder)]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1])
