"""The whole job: collect -> fit -> choose on validation seeds -> (again) -> prove on untouched test seeds.

Every stage leaves its result on disk and is skipped when that is there: the same command resumes.

    out/
      round1/episodes      the policy's own episodes          (seeds: collect)
      round1/network       success, failure and control heads
      round1/critic        value model and critic
      round1/candidates    one small agent folder each
      round1/validation    episodes of successive halving     (seeds: validation)
      round1/choice.json   standings, divergence, held-out AUC
      round1/agent         the chosen agent, complete in itself
      extra                control: equal extra training on the demonstrations
      agent                the last round's chosen agent
      proof                episodes of all arms, comparison   (seeds: test)
      report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from failwise.errors import CheckpointError, DataError, SetupError, UnknownNameError
from failwise.improve.candidates import Candidate, ladder, proof_arms
from failwise.improve.choose import Standing, successive_halving
from failwise.improve.options import ImproveOptions
from failwise.improve.proof import prove
from failwise.seeds import COLLECT, VALIDATION
from failwise.types import EpisodeMeta, Outcome

if TYPE_CHECKING:
    from failwise.learn.data import ChunkData
    from failwise.policies.compact import CompactVLA
    from failwise.protocols import GenerativePolicy


def improve(env_ids: Sequence[str], policy: Path, out: Path, options: ImproveOptions | None = None) -> Path:
    """Make a policy fail less, and prove it; returns the run folder with ``agent/`` and ``report.html`` in it.

    Args:
        env_ids: tasks to improve on.
        policy: a compact policy's folder.
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
        agent = run_round(number, env_ids, policy, agent, out, options)
        chosen = json.loads((out / f"round{number}" / "choice.json").read_text(encoding="utf-8"))
        if number == 1:
            # An arm that is the chosen agent by another name would only repeat its episodes.
            families = {arm: name for arm, name in chosen["proof_arms"].items() if name != chosen["chosen"]}
            arms |= {arm: out / "round1" / "candidates" / name for arm, name in families.items()}
        arms[f"improved-{number}"] = agent
    if options.extra and options.demos is not None:
        arms["extra"] = train_extra(policy, out, options, env_ids)
    _copy_agent(agent, out / "agent")
    prove(env_ids, arms, out, options)
    return out


def run_round(number: int, env_ids: Sequence[str], base: Path, agent: Path, out: Path, options: ImproveOptions) -> Path:
    """One round: the agent's own episodes -> heads and critic -> the candidate that validation likes best."""
    folder = out / f"round{number}"
    if (folder / "agent" / "agent.json").is_file():
        return folder / "agent"
    metas = _collect(number, env_ids, agent, folder, options)
    _both_outcomes(metas)
    stores = [out / f"round{n}" / "episodes" for n in range(1, number + 1)]
    before = base if number == 1 else out / f"round{number - 1}" / "network"
    divergence = _fit(before, stores, folder, options)
    candidates = _still_in_the_race(number, ladder(divergence, options.guidance, options.samples), out)
    for c in candidates:
        c.write(folder / "candidates" / c.name, folder / "network", folder / "critic")
    if options.candidate:
        standings, best = [], _named(candidates, options.candidate).name
    else:
        standings = _choose(number, env_ids, candidates, folder, options)
        best = standings[0].name
    rates = {s.name: s.rate for s in standings}
    critic = json.loads((folder / "critic" / "critic.json").read_text(encoding="utf-8"))
    _write_json(
        folder / "choice.json",
        {
            "chosen": best,
            "standings": [asdict(s) for s in standings],
            "proof_arms": proof_arms(candidates, rates),
            "divergence": divergence,
            "critic": critic["notes"],
            "collected": {
                "episodes": len(metas),
                "successes": sum(m.outcome == Outcome.SUCCESS for m in metas),
            },
        },
    )
    return _copy_agent(folder / "candidates" / best, folder / "agent")


def _still_in_the_race(number: int, candidates: list[Candidate], out: Path) -> list[Candidate]:
    """After the first round, only what came into the better half of the round before."""
    if number == 1:
        return candidates
    before = json.loads((out / f"round{number - 1}" / "choice.json").read_text(encoding="utf-8"))
    ranked = [s["name"] for s in before["standings"]]
    kept = set(ranked[: max(1, -(-len(ranked) // 2))]) or {before["chosen"]}
    return [c for c in candidates if c.name in kept]


def _collect(
    number: int, env_ids: Sequence[str], agent: Path, folder: Path, options: ImproveOptions
) -> list[EpisodeMeta]:
    from failwise.rollout import RolloutItem, RolloutOptions, collect

    seeds = COLLECT.claim(options.episodes, offset=(number - 1) * options.episodes)
    items = [RolloutItem(e, s, s, f"round{number}", str(agent)) for e in env_ids for s in seeds]
    look = RolloutOptions(look_every=options.look_every)
    return collect(items, folder / "episodes", workers=options.workers, options=look, title=f"round {number}: collect")


def _fit(before: Path, stores: Sequence[Path], folder: Path, options: ImproveOptions) -> float:
    """Train heads and critic; returns the heads' mean divergence. Skips what is there."""
    from failwise.learn.afil import train_heads
    from failwise.learn.critic import fit_critic
    from failwise.learn.data import load_chunks
    from failwise.policies.critic import Critic

    have_network, have_critic = (
        (folder / "network" / "config.json").is_file(),
        (folder / "critic" / "critic.json").is_file(),
    )
    if have_network and have_critic:
        return float(Critic.load(folder / "critic").notes["divergence"])
    policy = _load_compact(before)
    own = load_chunks(list(stores), policy.spec.horizon, cameras=policy.spec.cameras)
    if have_network:
        trained = _load_compact(folder / "network")
    else:
        judged = None
        if options.heads.failure_set == "low_advantage":
            _, judged = fit_critic(policy, own, options.critic, value_only=True)
        demos = _demos(options, policy, {m.env_id for m in own.episodes})
        trained = train_heads(policy, own, demos, judged, options.heads, scratch=folder / "training")
        trained.save(folder / "network")
        shutil.rmtree(folder / "training", ignore_errors=True)
    critic, _ = fit_critic(trained, own, options.critic)
    divergence = _measure(trained, own)
    critic.notes["divergence"] = divergence
    critic.save(folder / "critic")
    return divergence


def _measure(policy: CompactVLA, own: ChunkData) -> float:
    """Mean 1 - cos between success and failure head on 64 own observations, without guidance."""
    import numpy as np
    import torch

    from failwise.steer import measure_divergence
    from failwise.types import Observation

    rows = np.random.default_rng(0).choice(len(own), min(64, len(own)), replace=False)
    observations = [
        Observation({c: x[i] for c, x in own.images.items()}, own.states[i], own.sentences[own.sentence[i]])
        for i in rows
    ]
    generator = torch.Generator().manual_seed(0)
    generative = cast("GenerativePolicy", policy)  # its context is its own kind
    return float(measure_divergence(generative, generative.encode(observations), generator).mean)


def _demos(options: ImproveOptions, policy: CompactVLA, env_ids: set[str]) -> ChunkData | None:
    if options.demos is None:
        return None
    from failwise.learn.bc import choose_demonstrations
    from failwise.learn.data import load_chunks

    chosen = choose_demonstrations(options.demos, options.demos_per_task)
    return load_chunks(
        options.demos,
        policy.spec.horizon,
        lambda m: m.episode_id in chosen and m.env_id in env_ids,
        cameras=policy.spec.cameras,
    )


def train_extra(base: Path, out: Path, options: ImproveOptions, env_ids: Sequence[str]) -> Path:
    """Control: the base, trained on its demonstrations for as many steps as all rounds together took."""
    from failwise.learn.fit import Source, fit

    folder = out / "extra"
    if (folder / "config.json").is_file():
        return folder
    policy = _load_compact(base)
    demos = _demos(options, policy, set(env_ids))
    assert demos is not None, "the caller has checked that there are demonstrations"
    schedule = replace(options.heads.fit, steps=options.heads.fit.steps * options.rounds)
    trained = fit(policy, [Source(demos)], schedule, title="control: extra training", scratch=folder / "training")
    shutil.rmtree(folder / "training", ignore_errors=True)
    trained.save(folder)
    return folder


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

    loaded = _load_compact(policy)
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
    from failwise.policies.compact import weights_sha256

    asked = {
        "env_ids": list(env_ids),
        "policy_sha256": weights_sha256(policy),
        "episodes": options.episodes,
        "demos": str(options.demos) if options.demos else None,
        "heads": _jsonable(asdict(options.heads)),
        "critic": _jsonable(asdict(options.critic)),
    }
    path = out / "request.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else asked
        _write_json(path, asked)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot use the run folder {out} ({error}); choose another --out") from error
    if different := [k for k in asked if before.get(k) != asked[k]]:
        _write_json(path, before)
        raise SetupError(
            f"{out} holds a run with another {', '.join(different)}; "
            "give the same request to resume it, or another --out"
        )


def _both_outcomes(metas: Sequence[EpisodeMeta]) -> None:
    won = sum(m.outcome == Outcome.SUCCESS for m in metas)
    if won in (0, len(metas)):
        kind, remedy = (
            ("succeeded", "there is nothing to learn from; choose harder tasks")
            if won
            else ("failed", "start from a policy that sometimes succeeds")
        )
        raise DataError(f"all {len(metas)} collected episodes {kind}: {remedy}")


def _load_compact(folder: Path) -> CompactVLA:
    from failwise.policies import load_policy
    from failwise.policies.compact import CompactVLA

    policy = load_policy(folder)
    if not isinstance(policy, CompactVLA):
        raise CheckpointError(f"{folder} holds a {policy.spec.kind!r} policy; improve trains compact ones")
    return policy


def _named(candidates: Sequence[Candidate], name: str) -> Candidate:
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("candidate", name, [c.name for c in candidates])


def _copy_agent(source: Path, target: Path) -> Path:
    """An agent folder that is complete in itself: its policy and critic are copied into it."""
    about = json.loads((source / "agent.json").read_text(encoding="utf-8"))
    half = target.with_name(target.name + ".tmp")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for part in ("policy", "critic"):
        if part in about:
            shutil.copytree((source / about[part]).resolve(), half / part)
            about[part] = part
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
