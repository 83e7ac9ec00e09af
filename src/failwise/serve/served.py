"""What is served: one policy in memory, and for every client an agent and a monitor of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failwise.agent import PolicyAgent, build_steering, load_agent, load_critic, read_agent_json
from failwise.errors import CheckpointError, SetupError
from failwise.policies import policy_folder
from failwise.policies.pooling import DEFAULT
from failwise.serve.resizing import Resize, Resizing
from failwise.serve.session import Session
from failwise.serve.warming import WarmUp, warm_up
from failwise.wire import KeyMap

if TYPE_CHECKING:
    from failwise.detect import Monitor
    from failwise.diagnose import Classifier

PROTOCOL = 1


class Served:
    """Everything that clients share, loaded once.

    Args:
        policy: what ``failwise.agent.load_agent`` takes, except experts, which read a simulator.
        steer: see ``parse_steering``; None leaves an agent folder's own steering.
        monitor: folder of a detector that watches every client, or None.
        diagnoser: folder of a classifier that says why, once the monitor alarms, or None.
        keys: what keys an observation has; None takes ``observation/images/CAMERA``, ``observation/state``, ``prompt``.
        seed: of clients that give none.
        resize: what becomes of images of another size than the policy's, see ``failwise.serve.resizing.Resize``.

    Raises:
        CheckpointError: a folder is missing or damaged, or the detector was fitted on another policy.
        SetupError: the policy cannot be served, steered, watched or diagnosed so.
    """

    def __init__(
        self, policy: str, *, steer: Sequence[Mapping[str, Any]] | None = None, monitor: Path | None = None,
        diagnoser: Path | None = None, keys: KeyMap | None = None, seed: int = 0,
        resize: Resize = "same-aspect",
    ) -> None:  # fmt: skip
        first = load_agent(policy)
        if not isinstance(first, PolicyAgent):
            raise SetupError("an expert reads the simulator, which no client sends; serve a policy")
        self._spec_text, self.seed, self._first = policy, seed, first
        self.policy, self.execute = first.policy, first.execute
        self.checkpoint = first.provenance().checkpoint_sha256
        self._steering, self._critic = _described(policy)
        if steer is not None:
            self._steering = steer
        cameras = list(self.policy.spec.cameras)
        self.keys = keys or KeyMap.usual(cameras)
        # A server of openpi's does not say what its policy takes: its spec is empty, and everything is passed on.
        unknown = self.policy.spec.kind == "openpi" and not cameras and not self.policy.spec.state_dim
        self.keys = self.keys.named(cameras) if unknown else self.keys.for_policy(cameras, self.policy.spec.state_dim)
        given = {source.removeprefix("image:") for source in self.keys.sources.values() if source.startswith("image:")}
        if missing := [camera for camera in cameras if camera not in given]:
            raise SetupError(f"the policy needs camera {missing[0]!r}, which no key stands for; add one to --keys")
        self.resizing = Resizing(self.policy.spec, self.keys, resize)
        self.monitor = self._load_monitor(monitor)
        self.diagnoser = self._load_diagnoser(diagnoser)
        self._check_heads(self._agent(self.policy))
        self._idle = [self.policy]
        self.warmed: WarmUp | None = None

    def warm_up(self) -> WarmUp:
        """Make one inference before the first client's, and remember what came of it."""
        self.warmed = warm_up(self)
        return self.warmed

    def session(self, number: int) -> Session:
        """What a new client talks to; ``number`` tells it from the others."""
        monitor: Monitor | None = copy.deepcopy(self.monitor)
        agent = self._agent(self._policy())
        return Session(number, agent, self.execute, self.keys, monitor, self.diagnoser, self.seed, self.resizing)

    def metadata(self) -> dict[str, Any]:
        """What every client is told first: what the policy takes and gives. No path of this machine is in it."""
        from failwise import __version__

        spec = self.policy.spec
        about: dict[str, Any] = {
            "protocol": PROTOCOL,
            "version": __version__,
            "kind": spec.kind,
            "keys": self.keys.read_sources,
            "unread_keys": sorted(self.keys.unread),
            "cameras": {name: list(size) for name, size in spec.cameras.items()},
            "resize": self.resizing.mode,
            "resizes_images": spec.resizes_images,
            "state_dim": spec.state_dim,
            "action_dim": spec.action_dim,
            "horizon": spec.horizon,
            "execute": self.execute,
            "history": spec.history,
            "feature_dim": spec.feature_dim if self._pooling == DEFAULT else 0,
            "checkpoint_sha256": self.checkpoint,
            "steering": [str(entry["name"]) for entry in self._steering],
        }
        if self.monitor is not None:
            band = self.monitor.bands[""]
            about["monitor"] = {
                "detector": self.monitor.detector.name, "alpha": band.alpha, "calibration_successes": band.n,
            }  # fmt: skip
        return {"failwise": about}

    @property
    def _pooling(self) -> str:
        """Which features the policy gives: those that the monitor reads."""
        return DEFAULT if self.monitor is None else self.monitor.detector.pooling or DEFAULT

    def over(self, session: Session) -> None:
        """A client has left: the next one can have what was its own."""
        if self._has_memory:
            self._idle.append(session.agent.policy)

    @property
    def _has_memory(self) -> bool:
        """Whether the policy keeps anything between inferences: what has nothing to reset can be shared."""
        return hasattr(self.policy, "reset")

    def _policy(self) -> Any:
        if not self._has_memory:
            return self.policy
        if self._idle:
            return self._idle.pop()
        again = load_agent(self._spec_text)
        assert isinstance(again, PolicyAgent)
        return again.policy

    def _agent(self, policy: Any) -> PolicyAgent:
        """An agent with noise and steering of its own, which gives whole chunks and what the monitor reads."""
        steering = build_steering(self._steering, policy, self._critic)
        agent = PolicyAgent(policy, steering, policy.spec.horizon, self._first.provenance())
        agent.watch(self._pooling, 0 if self.monitor is None else self.monitor.detector.samples)
        return agent

    def _load_monitor(self, folder: Path | None) -> Monitor | None:
        if folder is None:
            return None
        from failwise.detect import load_monitor

        if not self.policy.spec.feature_dim:
            raise SetupError(f"a monitor reads a policy's features; {self._spec_text} gives none")
        return load_monitor(folder, self.checkpoint)

    def _load_diagnoser(self, folder: Path | None) -> Classifier | None:
        if folder is None:
            return None
        if self.monitor is None:
            raise SetupError("--diagnoser says why at an alarm, so it needs a --monitor that raises one")
        from failwise.diagnose import load_classifier

        return load_classifier(folder)

    def _check_heads(self, agent: PolicyAgent) -> None:
        """Now, and not at a client's first question."""
        wanted = getattr(agent.steering, "heads", ())
        if missing := [head for head in wanted if head not in self.policy.spec.heads]:
            there = ", ".join(self.policy.spec.heads)
            raise CheckpointError(
                f"the steering needs the head {missing[0]!r}, {self._spec_text} has {there}; "
                "failwise improve trains further ones"
            )


def parse_steering(text: str) -> list[dict[str, Any]] | None:
    """What a user writes: "" leaves the agent's own, "none", names with commas, or a JSON list as in ``agent.json``.

    Raises:
        SetupError: neither.
    """
    if not text:
        return None
    if not text.lstrip().startswith("["):
        return [{"name": name} for name in text.split(",") if name != "none"]
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise SetupError(f"--steer is not valid JSON ({error})") from error
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.keys() - {"name", "options"}:
            raise SetupError(
                f'--steer must be [{{"name": NAME, "options": {{...}}}}, ...], got {json.dumps(entry)[:80]}'
            )
    return list(entries)


def _described(policy: str) -> tuple[Sequence[Mapping[str, Any]], Any]:
    """An agent folder's own steering and critic; none of both for anything else."""
    folder = policy_folder(policy)
    if not (folder / "agent.json").is_file():
        return [], None
    about = read_agent_json(folder)
    return about.get("steering", []), load_critic(about, folder)
