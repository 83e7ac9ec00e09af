"""The same items on a real Ray cluster on this machine: same results, and lost workers' items are done again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from failwise.cli.options import executor_for
from failwise.errors import SetupError
from failwise.evaluate import evaluate
from failwise.rollout import RolloutItem, collect, make_executor
from failwise.rollout.pool import WorkerFailure
from failwise.store import EpisodeStore, check

ray = pytest.importorskip("ray", reason="Ray has no build for this Python")
from failwise.rollout.ray_executor import RayExecutor  # noqa: E402

from . import executor_items as items  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests here; the executors under test find it and leave it running.

    The shared executor keeps two of its cores; the others are for the tests with one of their own, in any order.
    """
    # Workers import the items by their package's name, as the pool's do.
    root = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def shared() -> Iterator[RayExecutor]:
    with RayExecutor(2, item_timeout_s=600.0) as executor:
        yield executor


def test_results_are_those_of_any_executor(shared: RayExecutor) -> None:
    assert sorted(shared.map(items.square, range(12))) == [n * n for n in range(12)]
    assert sorted(shared.map(items.square, [5])) == [25], "the workers are kept for the next map"
    assert list(shared.map(items.square, [])) == []


def test_what_an_item_raises_is_raised(shared: RayExecutor) -> None:
    with pytest.raises(ZeroDivisionError, match="item three"):
        list(shared.map(items.raise_at_three, range(5)))
    assert sorted(shared.map(items.square, range(3))) == [0, 1, 4], "and it goes on"


def test_a_killed_worker_is_replaced_and_its_item_done_again(shared: RayExecutor, tmp_path: Path) -> None:
    done = list(shared.map(items.kill_itself_once, [(n, str(tmp_path)) for n in range(6)]))
    assert sorted(done) == list(range(6))
    assert (tmp_path / "done-before").exists()


def test_an_item_that_keeps_killing_its_worker_is_given_up_and_counted(shared: RayExecutor) -> None:
    done = list(shared.map(items.kill_itself, range(4)))
    assert sorted(d for d in done if isinstance(d, int)) == [0, 1, 3]
    assert [d for d in done if isinstance(d, WorkerFailure)] == [WorkerFailure(2, "its worker died; 2 attempts in all")]


def test_a_hung_worker_is_replaced() -> None:
    with RayExecutor(1, item_timeout_s=4.0, max_attempts=1) as executor:
        done = list(executor.map(items.hang, range(4)))
    assert WorkerFailure(2, "its worker gave no answer within 4 s; 1 attempts in all") in done
    assert sorted(d for d in done if isinstance(d, int)) == [0, 1, 3]


def test_workers_that_cannot_be_set_up_stop_the_run() -> None:
    with RayExecutor(1, items.fail_to_start) as executor, pytest.raises(SetupError, match="no such driver"):
        list(executor.map(items.square, range(3)))


def test_bad_arguments_and_addresses_are_one_line() -> None:
    with pytest.raises(SetupError, match="a pool needs workers >= 1"):
        RayExecutor(0)


def content(store: Path) -> dict[str, str]:
    """Every recorded file but the provenance's machine, which is the same here anyway."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_episodes_are_those_of_the_process_pool_byte_for_byte(shared: RayExecutor, tmp_path: Path) -> None:
    todo = [RolloutItem("tiny/reach", seed, seed, "random", "random:3") for seed in range(4)]
    collect(todo, tmp_path / "pool", workers=2, quiet=True)
    metas = collect(todo, tmp_path / "ray", executor=shared, quiet=True)
    assert [m.env_seed for m in metas] == [0, 1, 2, 3] and not any(m.error for m in metas)
    assert content(tmp_path / "ray") == content(tmp_path / "pool")
    assert check(EpisodeStore(tmp_path / "ray")).sound


def test_an_address_where_nobody_is_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nand a long explanation")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        SetupError, match=r"cannot connect to the Ray cluster at 'auto': Could not find any running[^\n]*$"
    ):
        make_executor("ray", 2, address="auto")


def test_an_evaluation_is_that_of_the_process_pool_byte_for_byte(shared: RayExecutor, tmp_path: Path) -> None:
    arms = {"noise": "random:3", "expert": "expert"}
    found = evaluate(["tiny/reach"], arms, range(6), tmp_path / "ray", executor=shared)
    assert found.against[0].pooled.won == 6
    evaluate(["tiny/reach"], arms, range(6), tmp_path / "pool", workers=1)
    assert content(tmp_path / "ray" / "episodes") == content(tmp_path / "pool" / "episodes")


def test_the_command_line_takes_ray_by_name() -> None:
    with executor_for("ray", 1, "") as executor:
        assert isinstance(executor, RayExecutor)
    with pytest.raises(SetupError, match="--ray-address is for --executor ray"), executor_for("processes", 1, "x"):
        pass


def test_without_an_address_it_is_a_ray_of_its_own_whatever_the_environment_names() -> None:
    program = (
        "from failwise.rollout.ray_executor import RayExecutor\n"
        "with RayExecutor(1) as executor:\n"
        "    print(executor._ray.get_runtime_context().gcs_address)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": "203.0.113.1:6379"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "203.0.113.1" not in done.stdout
