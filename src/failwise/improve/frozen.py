"""Policies that are not trained here, such as LeRobot's: what their own episodes can improve all the same.

The weights stay as they are. A value model and a chunk critic learn from the features that were recorded while the
policy acted, and of N sampled chunks the critic's favourite is executed. Where the policy brings a failure head (the
plugin for LeRobot trains one), sampling is steered away from it as well. Doing nothing is a candidate, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from failwise.errors import CheckpointError, SetupError
from failwise.improve.candidates import Candidate, ladder
from failwise.improve.options import ImproveOptions

if TYPE_CHECKING:
    from failwise.protocols import GenerativePolicy

FAILURE = "failure"
DRY_RUN_EPISODES = 8


def is_frozen(policy: str | Path) -> bool:
    """Whether a policy is of a kind that is not trained here."""
    from failwise.policies import split_address, weights_folder

    kind, _ = split_address(policy)
    config = weights_folder(policy) / "config.json"
    if kind or not config.is_file():
        return bool(kind) and kind != "compact"
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("kind") != "compact")
    except (ValueError, AttributeError):
        return False  # what is wrong with it, whoever loads it says


def load_frozen(policy: str | Path, options: ImproveOptions) -> GenerativePolicy:
    """The policy, if its own episodes can improve it.

    Raises:
        SetupError: options that only training can follow, or a policy that has no sampling to steer.
    """
    from failwise.policies import load_policy

    for wrong, name in ((options.demos, "demos"), (options.recoveries != "none", "recoveries")):
        if wrong:
            raise SetupError(
                f"--{name} is for policies that are trained here; {policy} keeps its weights. Those of LeRobot "
                "learn by lerobot-train --policy.type=failwise_smolvla (or _pi0, _pi05, _diffusion)"
            )
    if not options.samples:
        raise SetupError(f"{policy} keeps its weights: without --samples there is nothing to choose from")
    loaded = load_policy(policy)
    if not hasattr(loaded, "predict"):
        raise SetupError(
            f"{policy} is a {loaded.spec.kind!r} policy without a sampling that could be steered; "
            "what it can have: failwise evaluate --monitor, --recover"
        )
    return cast("GenerativePolicy", loaded)


def check_fit(policy: GenerativePolicy, name: str | Path, env_ids: Sequence[str]) -> None:
    """Let it look at each environment once, so that a missing camera or another robot is told before anything runs.

    Raises:
        CheckpointError, DataError: it does not fit one of them.
    """
    from failwise.envs import make_env

    anything: Any = policy
    for env_id in env_ids:
        env = make_env(env_id)
        try:
            if policy.spec.action_dim != (taken := len(env.spec.action_low)):
                raise CheckpointError(
                    f"{name} gives actions of {policy.spec.action_dim} numbers, {env_id} takes {taken}: "
                    "this policy is for another robot or another action space"
                )
            observation, _ = env.reset(seed=0)
            if hasattr(anything, "reset"):
                anything.reset(0)
            policy.encode([observation])
        finally:
            env.close()


def fit_frozen(
    policy: str | Path, stores: Sequence[Path], folder: Path, options: ImproveOptions
) -> tuple[list[Candidate], float, dict[str, Any]]:
    """A round's candidates, the heads' mean divergence (0 without a failure head), and the critic's notes.

    Args:
        policy: as it was given.
        stores: the own episodes of all rounds so far.
        folder: of the round.
        options: of the job.
    """
    from failwise.learn.critic import fit_pooled_critic
    from failwise.policies import load_policy
    from failwise.policies.critic import Critic

    kept = _keep(policy, folder.parent / "policy")
    loaded = load_policy(policy)
    if not (folder / "critic" / "critic.json").is_file():
        critic, _ = fit_pooled_critic(stores, loaded.spec.execute, options.critic)
        critic.notes["divergence"] = _divergence(loaded, stores) if FAILURE in loaded.spec.heads else 0.0
        critic.save(folder / "critic")
    notes = Critic.load(folder / "critic").notes
    divergence = float(notes["divergence"])
    steered = [c for c in ladder(divergence, options.guidance, options.samples) if c.name not in ("c1", "c2")]
    if FAILURE not in loaded.spec.heads:
        steered = [c for c in steered if c.name.startswith("best-of")]
    candidates = [Candidate("unsteered", []), *steered]
    for candidate in candidates:
        candidate.write(folder / "candidates" / candidate.name, kept, folder / "critic", _kind_and_query(policy))
    return candidates, divergence, notes


def _keep(policy: str | Path, where: Path) -> Path:
    """A copy of the checkpoint in the run's folder, so that its agents are complete."""
    from failwise.policies import weights_folder

    if not where.is_dir():
        half = where.with_name(where.name + ".tmp")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(weights_folder(policy).resolve(), half)
        half.rename(where)
    return where


def _kind_and_query(policy: str | Path) -> tuple[str, str]:
    from failwise.policies import split_address

    kind, rest = split_address(policy)
    return kind, rest.partition("?")[2]


def _divergence(policy: GenerativePolicy, stores: Sequence[Path]) -> float:
    """Mean 1 - cos between the heads on observations of the first episodes, without guidance."""
    import torch

    from failwise.learn.data import load_chunks
    from failwise.steer import measure_divergence
    from failwise.store import EpisodeStore
    from failwise.types import Observation

    first = {m.episode_id for m in EpisodeStore(stores[0], create=False).metas()[:DRY_RUN_EPISODES]}
    data = load_chunks(stores[0], policy.spec.execute, lambda m: m.episode_id in first)
    rows = range(0, len(data), max(1, len(data) // 32))
    observations = [
        Observation({c: x[i] for c, x in data.images.items()}, data.states[i], data.sentences[data.sentence[i]])
        for i in rows
    ]
    generator = torch.Generator().manual_seed(0)
    return float(measure_divergence(policy, policy.encode(observations), generator).mean)
