"""Items get done, whatever happens to the workers; nothing stays behind."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from failwise.errors import SetupError
from failwise.rollout.executors import InProcess, ProcessPool
from failwise.rollout.pool import WorkerFailure
from failwise.rollout.progress import track
from processes import start

from . import executor_items as items


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPool]:
    with ProcessPool(2, items.note_start) as pool:
        yield pool


def test_results_do_not_depend_on_order_workers_or_executor(shared: ProcessPool) -> None:
    numbers = list(range(20))
    shuffled = random.Random(0).sample(numbers, 20)
    expected = [items.square(n) for n in numbers]
    assert list(InProcess().map(items.square, numbers)) == expected
    assert sorted(shared.map(items.square, numbers)) == expected
    assert sorted(shared.map(items.square, shuffled)) == expected
    assert list(shared.map(items.square, [])) == []


def test_workers_are_kept_set_up_once_and_single_threaded(shared: ProcessPool) -> None:
    about = [a for _ in range(3) for a in shared.map(items.about_worker, range(6))]
    assert len({pid for pid, *_ in about}) == 2, "the same two processes in every map"
    assert os.getpid() not in {pid for pid, *_ in about}
    assert {threads for _, threads, _, _ in about} == {"1"}
    assert {starts for _, _, starts, _ in about} == {"1"}
    assert "FAILWISE_TEST_STARTS" not in os.environ


def test_what_an_item_raises_is_raised_by_both_executors(shared: ProcessPool) -> None:
    with InProcess() as plain, pytest.raises(ZeroDivisionError, match="item three"):
        list(plain.map(items.raise_at_three, range(5)))
    with pytest.raises(ZeroDivisionError, match="item three") as caught:
        list(shared.map(items.raise_at_three, range(5)))
    assert "in raise_at_three" in caught.value.__notes__[0], "the worker's own traceback"
    assert sorted(shared.map(items.square, range(3))) == [0, 1, 4], "the pool goes on"


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (items.raise_unknown_name, SetupError, "unknown critter 'cta'. Did you mean 'cat'"),
        (items.raise_wrapping, ValueError, r"^item 0 is bad(\n|$)"),
        (items.raise_end_of_file, EOFError, "a truncated file of its own"),
        (items.raise_what_cannot_travel, RuntimeError, "LocalError: .*only here"),
        (items.give_what_cannot_travel, TypeError, "the result of item 0 cannot be sent"),
        (lambda n: n, SetupError, "cannot be sent to a worker"),
    ],
)
def test_awkward_errors_arrive(
    shared: ProcessPool, function: Callable[[int], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(shared.map(function, [0]))


def test_a_killed_worker_is_replaced_and_its_item_done_again(tmp_path: Path) -> None:
    with ProcessPool(2) as pool:
        done = list(pool.map(items.kill_itself_once, [(n, str(tmp_path)) for n in range(6)]))
    assert sorted(done) == list(range(6))
    assert (tmp_path / "done-before").exists()


def test_an_item_that_keeps_killing_its_worker_is_given_up() -> None:
    with ProcessPool(2, max_attempts=2) as pool:
        done = list(pool.map(items.kill_itself, range(4)))
    lost = [d for d in done if isinstance(d, WorkerFailure)]
    assert sorted(d for d in done if isinstance(d, int)) == [0, 1, 3]
    assert [(d.item, d.reason) for d in lost] == [
        (2, "its worker was killed by SIGKILL (out of memory?); 2 attempts in all")
    ]


def test_a_worker_that_leaves_is_counted_with_its_exit_code() -> None:
    with ProcessPool(1, max_attempts=1) as pool:
        assert list(pool.map(items.leave, [0])) == [
            WorkerFailure(0, "its worker ended with exit code 7; 1 attempts in all")
        ]


def test_a_hung_worker_is_replaced() -> None:
    with ProcessPool(2, item_timeout_s=4.0, max_attempts=1) as pool:
        done = list(pool.map(items.hang, range(5)))
        assert WorkerFailure(2, "its worker gave no answer within 4 s; 1 attempts in all") in done
        assert sorted(d for d in done if isinstance(d, int)) == [0, 1, 3, 4]


def test_a_slow_consumer_does_not_make_a_worker_look_hung() -> None:
    with ProcessPool(2, item_timeout_s=3.0, max_attempts=1) as pool:
        results = pool.map(items.square, range(4))
        first = next(results)
        time.sleep(3.5)
        assert sorted([first, *results]) == [0, 1, 4, 9]


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        (items.fail_to_start, "cannot be set up: OSError: no such driver"),
        (items.die_at_start, "cannot start: .* exit code 3 .*__main__"),
    ],
)
def test_workers_that_cannot_start_stop_the_run(initializer: Callable[[], None], message: str) -> None:
    with ProcessPool(2, initializer) as pool, pytest.raises(SetupError, match=message):
        list(pool.map(items.square, range(4)))


def test_an_abandoned_map_leaves_a_usable_pool(shared: ProcessPool) -> None:
    results = shared.map(items.square, range(10))
    next(results)
    with pytest.raises(RuntimeError, match="one map at a time"):
        next(shared.map(items.square, range(2)))
    results.close()
    assert sorted(shared.map(items.square, range(4))) == [0, 1, 4, 9]


@pytest.mark.parametrize("arguments", [(0,), (1, None, 0.0), (1, None, None, 0)])
def test_bad_arguments_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(SetupError, match="a pool needs workers >= 1"):
        ProcessPool(*arguments)


@pytest.mark.slow
def test_torch_runs_one_thread_a_worker() -> None:
    with ProcessPool(1, items.import_torch) as pool:
        assert list(pool.map(items.torch_threads, [0])) == [1]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    program = start(
        [sys.executable, items.__file__, str(tmp_path)],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2), "both workers are busy"
        pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
        assert all(alive(pid) for pid in pids)
        if how == signal.SIGINT:
            os.killpg(program.pid, how)  # as a terminal does: to parent and workers alike
        else:
            os.kill(program.pid, how)
        out, err = program.communicate(timeout=60)
        assert wait_until(lambda: not any(alive(pid) for pid in pids), 20.0), "orphans"
    finally:
        program.kill()
    if how == signal.SIGINT:
        assert (program.returncode, out) == (130, "interrupted\n")
        assert "Traceback" not in err


def test_progress_passes_results_through_and_tells_how_far(capsys: pytest.CaptureFixture[str]) -> None:
    class Meta:
        def __init__(self, outcome: str) -> None:
            self.outcome = outcome

    results = [Meta("success"), Meta("failure"), WorkerFailure(0, "lost")]
    shown = list(track(results, total=5, done=2, title="base arm", successes=1))
    assert shown == results
    assert "base arm: 5/5, success 40%" in (told := capsys.readouterr().err) and told.endswith("0:00 left\n")
    assert list(track(results, total=3, quiet=True)) == results
    assert capsys.readouterr().err == ""
