"""The whole job: collect -> fit -> choose on validation seeds -> (again) -> prove on untouched test seeds.

Every stage leaves its result on disk and is skipped when that is there: the same command resumes.

    out/
      round1/episodes      the policy's own episodes          (seeds: collect)
      round1/network       success, failure and control heads
      round1/critic        value model and critic
      round1/recoveries    own failures that the expert recovered from, where that is asked for
      round1/recovery_*    network and critic that also learned from those (later rounds: only the kind that was chosen)
      round1/candidates    one small agent folder each
      round1/validation    episodes of successive halving     (seeds: validation)
      round1/choice.json   standings, divergence, held-out AUC
      round1/agent         the chosen agent, complete in itself
      extra-N              control: N rounds' training steps on the demonstrations alone
      agent                the last round's chosen agent
      proof                episodes of all arms, comparison   (seeds: test)
      proof/report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from failwise.errors import CheckpointError, DataError, SetupError, UnknownNameError
from failwise.improve.candidates import Candidate, ladder, proof_arms, recovery_ladder
from failwise.improve.choose import Standing, successive_halving
from failwise.improve.fitting import RoundData, fit_heads, fit_with_recoveries, load_compact, train_extra
from failwise.improve.frozen import check_fit, fit_frozen, is_frozen, load_frozen
from failwise.improve.options import ImproveOptions
from failwise.improve.proof import prove
from failwise.learn.options import AFILTraining, CriticOptions
from failwise.seeds import COLLECT, VALIDATION
from failwise.tracking import within
from failwise.types import EpisodeMeta, Outcome


def improve(env_ids: Sequence[str], policy: Path, out: Path, options: ImproveOptions | None = None) -> Path:
    """Make a policy fail less, and prove it; returns the run folder with ``agent/`` and ``proof/report.html`` in it.

    Args:
        env_ids: tasks to improve on.
        policy: a compact policy's folder; or any other generative policy, such as "lerobot:FOLDER", which keeps its
            weights and is improved by what chooses among its samples and steers them.
        out: run folder.
        options: how much to collect, train, choose and prove.

    Raises:
        SetupError, CheckpointError, DataError: with one line on what to do; nothing recorded is lost.
    """
    options = options or ImproveOptions()
    _check(env_ids, policy, options)
    _claim(out, env_ids, policy, options)
    _set_threads(options.threads)
    agent = policy
    arms: dict[str, Path] = {"base": policy}
    for number in range(1, options.rounds + 1):
        with within(f"round{number}"):
            agent = run_round(number, env_ids, policy, agent, out, options)
        if number == 1:
            chosen = _choice(out / "round1")
            # An arm that is the chosen agent by another name would only repeat its episodes.
            families = {arm: name for arm, name in chosen["proof_arms"].items() if name != chosen["chosen"]}
            if options.proof == "short":
                families = {arm: name for arm, name in families.items() if arm == "c2"}
            arms |= {arm: out / "round1" / "candidates" / name for arm, name in families.items()}
        arms[f"improved-{number}"] = agent
    if options.extra_rounds:
        arms[f"extra-{options.extra_rounds}"] = train_extra(policy, out, options)
    _copy_agent(agent, out / "agent")
    with within("proof"):
        prove(env_ids, arms, out, options)
    return out


def run_round(number: int, env_ids: Sequence[str], base: Path, agent: Path, out: Path, options: ImproveOptions) -> Path:
    """One round: the agent's own episodes -> heads and critic -> the candidate that validation likes best."""
    folder = out / f"round{number}"
    if (folder / "agent" / "agent.json").is_file():
        return folder / "agent"
    metas = _collect(number, env_ids, agent, folder, options, look_every=0 if is_frozen(base) else options.look_every)
    _both_outcomes(metas)
    stores = [out / f"round{n}" / "episodes" for n in range(1, number + 1)]
    if is_frozen(base):
        candidates, fitted = _fit_frozen(number, base, stores, folder, options, out)
    else:
        before = base if number == 1 else _last_network(out / f"round{number - 1}")
        candidates, fitted = _fit_candidates(number, RoundData(before, stores, folder, options), out)
    if options.candidate:
        standings, best = [], _named(candidates, options.candidate).name
    else:
        standings = _choose(number, env_ids, candidates, folder, options)
        best = standings[0].name
    rates = {s.name: s.rate for s in standings}
    _write_json(
        folder / "choice.json",
        {
            "chosen": best,
            "standings": [asdict(s) for s in standings],
            "proof_arms": proof_arms(candidates, rates),
            "divergence": fitted.divergence,
            "critic": fitted.critic,
            "collected": {
                "episodes": len(metas),
                "successes": sum(m.outcome == Outcome.SUCCESS for m in metas),
                "verified_recoveries": fitted.verified_recoveries,
            },
        },
    )
    return _copy_agent(folder / "candidates" / best, folder / "agent")


@dataclass
class _Fitted:
    """What a round's training left to tell: the heads' mean divergence, the critic's notes, the recoveries' number."""

    divergence: float = 0.0
    critic: dict[str, Any] = field(default_factory=dict)
    verified_recoveries: int = 0


def _fit_candidates(number: int, data: RoundData, out: Path) -> tuple[list[Candidate], _Fitted]:
    """Train this round's networks and write its candidates.

    After the first round only the kind of network that was chosen is trained, and only what came into the better half
    of the round before is offered.
    """
    folder, options, fitted = data.folder, data.options, _Fitted()
    before = _choice(out / f"round{number - 1}") if number > 1 else None
    candidates: list[Candidate] = []
    if before is None or not before["chosen"].startswith("recovery"):
        fitted.divergence = fit_heads(data)
        candidates += ladder(fitted.divergence, options.guidance, options.samples)
        for c in candidates:
            c.write(folder / "candidates" / c.name, folder / "network", folder / "critic")
        fitted.critic = _critic_notes(folder / "critic")
    if options.recoveries == "expert" and (before is None or before["chosen"].startswith("recovery")):
        fitted.verified_recoveries = fit_with_recoveries(data)
        with_recoveries = recovery_ladder(options.guidance)
        for c in with_recoveries:
            c.write(folder / "candidates" / c.name, folder / "recovery_network", folder / "recovery_critic")
        candidates += with_recoveries
        notes = _critic_notes(folder / "recovery_critic")
        fitted.critic = fitted.critic or notes
        fitted.divergence = fitted.divergence or float(notes["divergence"])
    return _better_half(candidates, before), fitted


def _fit_frozen(
    number: int, base: Path, stores: Sequence[Path], folder: Path, options: ImproveOptions, out: Path
) -> tuple[list[Candidate], _Fitted]:
    """The same where the policy keeps its weights."""
    candidates, divergence, notes = fit_frozen(base, stores, folder, options)
    before = _choice(out / f"round{number - 1}") if number > 1 else None
    return _better_half(candidates, before), _Fitted(divergence, notes)


def _better_half(candidates: list[Candidate], before: dict[str, Any] | None) -> list[Candidate]:
    """Of the candidates those that came into the better half of the round before, if there was one."""
    if before is None:
        return candidates
    ranked = [s["name"] for s in before["standings"]]
    kept = set(ranked[: max(1, -(-len(ranked) // 2))]) or {before["chosen"]}
    return [c for c in candidates if c.name in kept]


def _choice(folder: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / "choice.json").read_text(encoding="utf-8")))


def _critic_notes(folder: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / "critic.json").read_text(encoding="utf-8"))["notes"])


def _last_network(folder: Path) -> Path:
    """The network that a round chose to act with."""
    return folder / ("recovery_network" if _choice(folder)["chosen"].startswith("recovery") else "network")


def _collect(
    number: int, env_ids: Sequence[str], agent: Path, folder: Path, options: ImproveOptions, look_every: int
) -> list[EpisodeMeta]:
    from failwise.rollout import RolloutItem, RolloutOptions, collect

    seeds = COLLECT.claim(options.episodes, offset=(number - 1) * options.episodes)
    items = [RolloutItem(e, s, s, f"round{number}", str(agent)) for e in env_ids for s in seeds]
    look = RolloutOptions(look_every=look_every)
    return collect(items, folder / "episodes", workers=options.workers, options=look, title=f"round {number}: collect")


def _choose(
    number: int,
    env_ids: Sequence[str],
    candidates: Sequence[Candidate],
    folder: Path,
    options: ImproveOptions,
) -> list[Standing]:
    from failwise.rollout import RolloutItem, collect

    total = sum(options.validation_seeds)
    seeds = list(VALIDATION.claim(total, offset=(number - 1) * total))
    rungs, at = [], 0
    for n in options.validation_seeds:
        rungs.append(seeds[at : at + n])
        at += n

    def run(names: Sequence[str], rung: Sequence[int]) -> list[EpisodeMeta]:
        items = [
            RolloutItem(e, s, s, name, str(folder / "candidates" / name))
            for s in rung
            for e in env_ids
            for name in names
        ]
        title = f"round {number}: choose among {len(names)}"
        return collect(items, folder / "validation", workers=options.workers, title=title)

    return successive_halving([c.name for c in candidates if not c.control], rungs, run)


def _check(env_ids: Sequence[str], policy: Path, options: ImproveOptions) -> None:
    from failwise.envs import make_env

    if is_frozen(policy):
        check_fit(load_frozen(policy, options), policy, env_ids)
        return
    loaded = load_compact(policy)
    for env_id in env_ids:
        env = make_env(env_id)
        spec = env.spec
        env.close()
        if missing := [c for c in loaded.spec.cameras if c not in spec.cameras]:
            raise CheckpointError(f"{policy} needs camera {missing[0]!r}, which {env_id} does not have")
        if len(spec.state_names) != loaded.spec.state_dim or len(spec.action_low) != loaded.spec.action_dim:
            raise CheckpointError(
                f"{policy} takes {loaded.spec.state_dim} state and gives {loaded.spec.action_dim} action dims, "
                f"{env_id} has {len(spec.state_names)} and {len(spec.action_low)}: choose tasks that it was trained on"
            )
    if options.demos is not None and not options.demos.is_dir():
        raise DataError(f"no demonstrations at {options.demos}; make them with: failwise collect --policy expert:mixed")


def _claim(out: Path, env_ids: Sequence[str], policy: Path, options: ImproveOptions) -> None:
    """Refuse to resume a run folder under another request: old episodes would be counted as new ones."""
    from failwise.policies import weights_folder
    from failwise.policies.compact import weights_sha256

    asked = {
        "env_ids": list(env_ids),
        "policy_sha256": weights_sha256(weights_folder(policy) if is_frozen(policy) else policy),
        "episodes": options.episodes,
        "demos": str(options.demos) if options.demos else None,
        "heads": _jsonable(asdict(options.heads)),
        "critic": _jsonable(asdict(options.critic)),
    }
    path = out / "request.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else asked
        # Options that an earlier version did not know had no other value than what is their default now.
        for name, defaults in (("heads", AFILTraining()), ("critic", CriticOptions())):
            before[name] = _filled(before.get(name) or {}, _jsonable(asdict(defaults)))
        _write_json(path, asked)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot use the run folder {out} ({error}); choose another --out") from error
    if different := [k for k in asked if before.get(k) != asked[k]]:
        _write_json(path, before)
        raise SetupError(
            f"{out} holds a run with another {', '.join(different)}; "
            "give the same request to resume it, or another --out"
        )


def _filled(given: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, and the defaults of those that are missing, at every level."""
    out = {**defaults, **given}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(given.get(name), dict):
            out[name] = _filled(given[name], value)
    return out


def _both_outcomes(metas: Sequence[EpisodeMeta]) -> None:
    won = sum(m.outcome == Outcome.SUCCESS for m in metas)
    if won in (0, len(metas)):
        kind, remedy = (
            ("succeeded", "there is nothing to learn from; choose harder tasks")
            if won
            else ("failed", "start from a policy that sometimes succeeds")
        )
        raise DataError(f"all {len(metas)} collected episodes {kind}: {remedy}")


def _named(candidates: Sequence[Candidate], name: str) -> Candidate:
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("candidate", name, [c.name for c in candidates])


def _copy_agent(source: Path, target: Path) -> Path:
    """An agent folder that is complete in itself: its policy and critic are copied into it."""
    from failwise.policies import beside

    about = json.loads((source / "agent.json").read_text(encoding="utf-8"))
    half = target.with_name(target.name + ".tmp")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for part in ("policy", "critic"):
        if part in about:
            where, content = beside(source, about[part])
            shutil.copytree(content.resolve(), half / part)
            about[part] = where.replace(str(content), part)
    _write_json(half / "agent.json", about)
    shutil.rmtree(target, ignore_errors=True)
    half.rename(target)
    return target


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
