"""Many episodes into one store: skips what is there, survives Ctrl-C and lost workers, counts every item."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from failwise.errors import SetupError, UnreachableError
from failwise.protocols import Environment, Executor
from failwise.recover.takeover import TakeoverOptions, load_takeover
from failwise.rollout.loop import RolloutItem, RolloutOptions, run_episode
from failwise.rollout.watching import OnAlarm, load_watch
from failwise.store import EpisodeStore, clear_leftovers
from failwise.types import EpisodeMeta, Outcome

ExecutorKind = Literal["processes", "ray"]

_CACHED_ENVS, _CACHED_AGENTS = 10, 12


class OwnExecutor(Executor, Protocol):
    """An executor that holds workers, and ends them when it is closed."""

    def close(self) -> None:
        """End the workers."""
        ...


class _Kept:
    """The few most recently used of something costly to make, one set a process."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        while len(self._items) >= self._size:
            _, old = self._items.popitem(last=False)
            if hasattr(old, "close"):
                old.close()
        self._items[key] = make()
        return self._items[key]


_envs, _agents = _Kept(_CACHED_ENVS), _Kept(_CACHED_AGENTS)
_watches, _takeovers = _Kept(_CACHED_AGENTS), _Kept(_CACHED_AGENTS)


def prepare_worker() -> None:
    """Runs once in each worker: one torch thread, so that two workers do not fight over two cores."""
    import torch

    torch.set_num_threads(1)


def environment(env_id: str, **options: Any) -> Environment:
    """This process's own environment of that name; the few most recently used ones are kept."""
    from failwise.envs import make_env

    env: Environment = _envs.get(f"{env_id} {sorted(options.items())}", lambda: make_env(env_id, **options))
    return env


def _stamp(agent: str) -> int:
    """When the newest file of an agent's folder was written: a folder that was trained into again is read again."""
    folder = Path(agent)
    return max((p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()), default=0) if folder.is_dir() else 0


def run_item(item: RolloutItem, out: str, options: RolloutOptions) -> EpisodeMeta:
    """Run one item in this process and commit it to the store at ``out``."""
    from failwise.agent import load_agent

    env = environment(item.env_id, **options.env_options)
    agent = _agents.get(f"{item.agent} {_stamp(item.agent)}", lambda: load_agent(item.agent))
    _check_fit(agent, env, item)
    watch = None
    if item.monitor:
        key = f"{item.monitor} {_stamp(item.monitor)} {item.on_alarm} {item.agent} {_stamp(item.agent)}"
        watch = _watches.get(key, lambda: load_watch(item.monitor, item.on_alarm, agent))
    takeover = None
    if item.recover:
        key = f"{item.recover} {_stamp(item.recover)} {item.takeover.model_dump_json()}"
        takeover = _takeovers.get(key, lambda: load_takeover(item.recover, item.takeover))
    store = EpisodeStore(out)
    with store.begin(item.episode_id) as writer:
        meta = run_episode(env, agent, item, writer, options, watch, takeover)
        writer.commit(meta)
    return meta


def collect(
    items: Sequence[RolloutItem],
    out: Path,
    *,
    workers: int = 2,
    options: RolloutOptions | None = None,
    executor: Executor | None = None,
    title: str = "collect",
    quiet: bool = False,
    item_timeout_s: float = 600.0,
) -> list[EpisodeMeta]:
    """Run what is not in the store yet; returns the metas of all items, in their order.

    Args:
        items: what to run.
        out: the store's folder, made when missing.
        workers: processes; 1 runs in this process.
        options: how episodes are run and what is recorded.
        executor: another way of running items, from ``make_executor`` or your own; it is not closed.
        title: of the progress bar.
        quiet: show no progress.
        item_timeout_s: after so long, an item's worker counts as hung and is replaced.

    Raises:
        SetupError: two items have the same episode id, or the first of them cannot be set up.
    """
    from failwise.rollout.pool import WorkerFailure
    from failwise.rollout.progress import Tally, track

    if len({i.episode_id for i in items}) != len(items):
        raise SetupError("two of the items have the same environment, arm and seed")
    options = options or RolloutOptions()
    store = EpisodeStore(out)
    metas = {m.episode_id: m for m in store.metas()}
    todo = [i for i in items if i.episode_id not in metas]
    if todo:
        _check_setup({(i.env_id, i.agent) for i in todo})
        _check_takeovers({(i.env_id, i.recover, i.takeover) for i in todo if i.recover})
        _check_watches({(i.env_id, i.agent, i.monitor, i.on_alarm) for i in todo if i.monitor}, workers)
        task = partial(_run_or_report, out=str(out), options=options)
        own = executor is None
        tally = Tally(metas.values())
        runner: Any = executor or make_executor("processes", min(workers, len(todo)), item_timeout_s)
        try:
            results = track(
                runner.map(task, todo), total=len(items), done=len(items) - len(todo), title=title, quiet=quiet,
                successes=sum(metas[i.episode_id].outcome == "success" for i in items if i.episode_id in metas),
            )  # fmt: skip
            for result in results:
                lost = isinstance(result, WorkerFailure)
                meta = _record_loss(result.item, f"worker lost: {result.reason}", store) if lost else result
                if isinstance(meta, str):
                    raise SetupError(meta)
                metas[meta.episode_id] = meta
                tally.add(meta)
        finally:
            if own:
                runner.close()
            clear_leftovers(store)  # of workers that were stopped in the middle of a commit
    return [metas[i.episode_id] for i in items]


def make_executor(kind: ExecutorKind, workers: int, item_timeout_s: float = 600.0, address: str = "") -> OwnExecutor:
    """A way of running items.

    Args:
        kind: "processes" on this machine (with one worker: in this process), or "ray".
        workers: how many at a time.
        item_timeout_s: after so long, an item's worker counts as hung and is replaced.
        address: of a running Ray cluster; "" starts one on this machine.

    Raises:
        SetupError: Ray is not installed, or there is no cluster at the address.
    """
    if kind == "ray":
        from failwise.rollout.ray_executor import RayExecutor

        return RayExecutor(workers, prepare_worker, item_timeout_s, address=address)
    from failwise.rollout.executors import InProcess, ProcessPool

    return ProcessPool(workers, prepare_worker, item_timeout_s) if workers > 1 else InProcess()


def _run_or_report(item: RolloutItem, out: str, options: RolloutOptions) -> EpisodeMeta | str:
    """As ``run_item``; a setup error comes back as its one line, because it is the same for every item.

    But a server that was there when the run began may come back, so that it costs this item only.
    """
    try:
        return run_item(item, out, options)
    except UnreachableError as error:
        return _record_loss(item, str(error), EpisodeStore(out))
    except SetupError as error:
        return str(error)


def _check_watches(watched: set[tuple[str, str, str, OnAlarm]], workers: int) -> None:
    """Load each monitor once, and see that its reaction is possible, before any worker starts."""
    from failwise.agent import load_agent

    for env_id, agent, monitor, on_alarm in sorted(watched):
        load_watch(monitor, on_alarm, load_agent(agent))
        if on_alarm == "ask" and (workers > 1 or not sys.stdin.isatty()):
            raise SetupError("--on-alarm ask asks a person at the terminal: run it there, with --workers 1")
        if on_alarm in ("recover", "ask") and not environment(env_id).spec.has_expert:
            raise SetupError(f"{env_id} has no expert to recover with; use --on-alarm stop")


def _check_takeovers(wanted: set[tuple[str, str, TakeoverOptions]]) -> None:
    """Load each once, and see that each environment can do what it needs, before any worker starts."""
    for env_id, recover, options in sorted(wanted, key=str):
        load_takeover(recover, options).begin(environment(env_id))


def _check_fit(agent: Any, env: Environment, item: RolloutItem) -> None:
    """A checkpoint for another robot is refused before its first step, not recorded as so many failed episodes.

    Raises:
        SetupError: its actions are of another width than the environment's.
    """
    policy = getattr(agent, "policy", None)
    if policy is None or policy.spec.kind == "random" or hasattr(policy, "probe"):  # no checkpoint, or asked before
        return
    given, taken = policy.spec.action_dim, len(env.spec.action_low)
    if given != taken:
        raise SetupError(
            f"{item.agent} gives actions of {given} numbers, {item.env_id} takes {taken}: "
            "this policy is for another robot or another action space"
        )


def _check_setup(pairs: set[tuple[str, str]]) -> None:
    """Look at each environment's name and make each agent once before any worker starts.

    What a policy server takes and gives shows only in an answer, so it is asked once for each of its environments.
    """
    from failwise.agent import load_agent
    from failwise.envs import list_tasks

    for env_id in sorted({env_id for env_id, _ in pairs}):
        suite, _, task = env_id.partition("/")
        if task.partition("@")[0] not in (tasks := list_tasks(suite)):  # a variant is its suite's to know
            from failwise.errors import UnknownNameError

            raise UnknownNameError(f"{suite} task", task, tasks)
    for agent in sorted({agent for _, agent in pairs}):
        policy: Any = getattr(load_agent(agent), "policy", None)
        if hasattr(policy, "probe"):
            for env_id in sorted({env_id for env_id, one in pairs if one == agent}):
                policy.probe(environment(env_id).spec)


def _record_loss(item: RolloutItem, reason: str, store: EpisodeStore) -> EpisodeMeta:
    """An episode that could not even begin: recorded as an error, so that the counts add up."""
    meta = EpisodeMeta(
        episode_id=item.episode_id,
        env_id=item.env_id,
        task=item.env_id.split("/", 1)[1],
        instruction="",
        arm=item.arm,
        env_seed=item.env_seed,
        policy_seed=item.policy_seed,
        outcome=Outcome.ERROR,
        n_steps=0,
        step_limit=1,
        control_hz=1.0,
        error=reason,
    )
    with store.begin(item.episode_id) as writer:
        writer.commit(meta)
    return meta


def default_workers() -> int:
    """One worker a core that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


__all__ = ["ExecutorKind", "collect", "default_workers", "make_executor", "prepare_worker", "run_item"]
