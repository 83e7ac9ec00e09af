"""Run every arm on the same tasks and seeds, compare them; what is already in the store is not run again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failwise.errors import DataError, SetupError
from failwise.evaluate.compare import compare
from failwise.evaluate.records import Comparison
from failwise.evaluate.recovered import recovered_arm
from failwise.evaluate.sequential import anytime_mcnemar, fewest_pairs
from failwise.evaluate.verdict import figures
from failwise.evaluate.watched import watched_arm
from failwise.store.naming import EARLY
from failwise.tracking import summarise
from failwise.types import EpisodeMeta, Outcome

if TYPE_CHECKING:
    from failwise.protocols import Executor
    from failwise.recover.takeover import TakeoverOptions
    from failwise.rollout import RolloutItem
    from failwise.rollout.watching import OnAlarm

COMPARISON_FILE = "comparison.json"
ARMS_FILE = "arms.json"
EPISODES_FOLDER = "episodes"


def evaluate(
    env_ids: Sequence[str],
    arms: Mapping[str, str],
    seeds: Sequence[int],
    out: Path,
    *,
    workers: int = 2,
    executor: Executor | None = None,
    baseline: str | None = None,
    confidence: float = 0.95,
    monitor: Path | None = None,
    on_alarm: OnAlarm = "stop",
    recover: str = "",
    takeover: TakeoverOptions | None = None,
    stop_early: bool = False,
) -> Comparison:
    """Collect each arm x task x seed and compare. Pairs exist by construction: all arms get the same seeds.

    Writes ``out/episodes`` (an episode store), ``out/arms.json`` and ``out/comparison.json``. In every arm
    the policy's seed is the environment's seed, so arms that share their sampler also share its noise.

    Args:
        env_ids: tasks, e.g. ``["metaworld/pick-place"]``.
        arms: name -> what acts (a policy or agent folder, "random", "expert").
        seeds: environment seeds, the same for every task and arm.
        out: run folder, made where it is missing.
        workers: processes that run episodes.
        executor: another way of running them, see ``failwise.rollout.make_executor``.
        baseline: the arm that the others are compared with; None takes the first.
        confidence: level of the intervals; tests reject at ``1 - confidence``.
        monitor: a detector's folder: each arm gets a twin, ARM+REACTION, that it watches on the same seeds.
        on_alarm: what happens at the first alarm of an episode: note, stop, recover or ask.
        recover: who takes over from a failing policy and hands back: a recovery actor's folder, "expert" or "rewind";
            each arm gets a twin, ARM+recover, on the same seeds. With a monitor its alarms say when.
        takeover: when and how.
        stop_early: look after every tenth of the seeds and run no further what is decided; the test and the interval
            are then those of ``failwise.evaluate.sequential``, which such looking does not spoil. So they stay for
            this folder: whoever has looked cannot go back to a test that forbids it.

    Raises:
        SetupError: no task, arm or seed, a seed named twice, an unknown baseline, or a folder where the name
            of an arm stood for another agent.
        DataError: so few pairs that no outcome could give a verdict. Raised before any episode starts.
    """
    guard = _guard(monitor, on_alarm, recover, takeover)
    twin_of = {arm: recovered_arm(arm) if recover else watched_arm(arm, on_alarm) for arm in arms if guard}
    twins = {twin: arm for arm, twin in twin_of.items()}
    if taken := sorted(set(twins) & set(arms)):
        raise SetupError(f"the arm name {taken[0]!r} is that of {twins[taken[0]]!r} guarded; give it another name")
    first = _check(env_ids, {**arms, **twins}, seeds, baseline, confidence, stop_early or was_stopped_early(out))
    from failwise.rollout import collect  # loads torch, which comparing alone does not need

    plain = [first, *(arm for arm in arms if arm != first)]
    order = [*plain, *(twin_of[arm] for arm in plain if guard)]
    said = {twin: arms[arm] + _said(guard) for twin, arm in twins.items()}
    _claim_folder(Path(out), {**arms, **said})
    if stop_early:
        _write(Path(out) / EARLY, json.dumps({"stop_early": True}) + "\n")
    metas: list[EpisodeMeta] = []
    running = order
    looks = _looks(seeds) if stop_early and len(order) > 1 else [seeds]
    for number, look in enumerate(looks, start=1):
        # Seed by seed, so that an interrupted run leaves pairs behind and not one complete arm.
        items = [
            _item(env_id, seed, arm, str(arms[twins.get(arm, arm)]), guard if arm in twins else {})
            for seed in look
            for env_id in env_ids
            for arm in running
        ]
        title = f"evaluate, look {number} of at most {len(looks)}" if stop_early else "evaluate"
        metas += collect(items, Path(out) / EPISODES_FOLDER, workers=workers, executor=executor, title=title)
        if stop_early and number < len(looks):
            open_arms = undecided(metas, first, order[1:], confidence)
            if not open_arms:
                break
            # A watched twin is judged by its plain arm's episodes: with twins, all arms go on together.
            running = order if twins else [first, *open_arms]
    comparison = compare(metas, first, arms=order[1:], confidence=confidence, anytime=was_stopped_early(out))
    write_comparison(comparison, Path(out))
    summarise(figures(comparison))
    return comparison


def was_stopped_early(out: Path) -> bool:
    """Whether the number of pairs in a folder may have depended on their outcomes: fixed tests are not valid there."""
    return (Path(out) / EARLY).is_file()


def undecided(metas: Sequence[EpisodeMeta], baseline: str, arms: Sequence[str], confidence: float) -> list[str]:
    """The arms of which it cannot be told yet whether they differ from the baseline.

    Each is tested at its share of the level, so that what is decided now stays decided after Holm's correction,
    whatever the other arms do later.
    """
    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    base = {(m.env_id, m.env_seed): m.outcome == Outcome.SUCCESS for m in metas if m.arm == baseline}
    for m in metas:
        pair = (m.env_id, m.env_seed)
        if m.arm != baseline and pair in base:
            won[m.arm] += (m.outcome == Outcome.SUCCESS) > base[pair]
            lost[m.arm] += (m.outcome == Outcome.SUCCESS) < base[pair]
    share = (1 - confidence) / max(1, len(arms))
    return [arm for arm in arms if anytime_mcnemar(lost[arm], won[arm]).p_value > share]


def _looks(seeds: Sequence[int]) -> list[Sequence[int]]:
    """The seeds in tenths, in order."""
    size = -(-len(seeds) // 10)
    return [seeds[at : at + size] for at in range(0, len(seeds), size)]


def _guard(monitor: Path | None, on_alarm: OnAlarm, recover: str, takeover: TakeoverOptions | None) -> dict[str, Any]:
    """What guards the twins, as fields of a ``RolloutItem``; {} where nothing does."""
    guard: dict[str, Any] = {}
    if monitor is not None:
        guard |= {"monitor": str(monitor), "on_alarm": on_alarm}
    if recover:
        if monitor is not None and on_alarm != "note":
            raise SetupError("a monitor says when to take over, nothing else: use on_alarm='note' with recover")
        guard["recover"] = recover
        if takeover is not None:
            guard["takeover"] = takeover
    return guard


def _said(guard: Mapping[str, Any]) -> str:
    """How a twin differs from its arm, so that another guard is not resumed under its name."""
    said = f" watched by {guard['monitor']}" if "monitor" in guard else ""
    if "recover" in guard:
        options = guard["takeover"].model_dump_json(exclude_defaults=True) if "takeover" in guard else "{}"
        said += f" recovered by {guard['recover']} {options}"
    return said


def _item(env_id: str, seed: int, arm: str, agent: str, guard: Mapping[str, Any]) -> RolloutItem:
    from failwise.rollout import RolloutItem

    return RolloutItem(env_id=env_id, env_seed=seed, policy_seed=seed, arm=arm, agent=agent, **guard)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write ``out/comparison.json`` in one piece: a reader sees the old file or the new one, not half.

    Raises:
        SetupError: the folder cannot be written.
    """
    return _write(out / COMPARISON_FILE, comparison.to_json())


def _write(path: Path, text: str) -> Path:
    half = path.with_suffix(".json.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose a folder that you may write") from error
    return path


def _claim_folder(out: Path, arms: Mapping[str, str]) -> None:
    """Refuse to resume under a name that stood for another agent: old episodes would count as its own."""
    file = out / ARMS_FILE
    try:
        before: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read {file} ({error}); choose another folder") from error
    for arm, agent in arms.items():
        if before.get(arm, str(agent)) != str(agent):
            raise SetupError(
                f"in {out} the arm {arm!r} is {before[arm]}, not {agent}: "
                "give the arm another name, or evaluate into another folder"
            )
    _write(file, json.dumps({**before, **{arm: str(agent) for arm, agent in arms.items()}}, indent=1) + "\n")


def _check(
    env_ids: Sequence[str],
    arms: Mapping[str, str],
    seeds: Sequence[int],
    baseline: str | None,
    confidence: float,
    anytime: bool,
) -> str:
    for name, given in (("task", env_ids), ("arm", list(arms)), ("seed", seeds)):
        if not given:
            raise SetupError(f"nothing to evaluate: no {name} given")
        if len(set(given)) < len(given):
            twice = next(one for one in given if list(given).count(one) > 1)
            raise SetupError(f"{name} {twice!r} is given twice; every pair of task and seed runs once an arm")
    first = next(iter(arms)) if baseline is None else baseline
    if first not in arms:
        raise SetupError(f"the baseline {first!r} is not among the arms: {', '.join(arms)}")
    pairs, least = len(env_ids) * len(seeds), fewest_pairs(1 - confidence, anytime)
    if len(arms) > 1 and pairs < least:
        raise DataError(
            f"{len(env_ids)} task(s) x {len(seeds)} seed(s) = {pairs} pairs: too few for any verdict, "
            f"since its test needs at least {least}; "
            f"ask for at least {-(-least // len(env_ids))} seeds (100 is a good start)"
        )
    return first
