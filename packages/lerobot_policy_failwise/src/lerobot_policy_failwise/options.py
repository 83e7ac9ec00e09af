"""What both policies take beside LeRobot's own options."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from lerobot.configs.policies import PreTrainedConfig

# What a policy says of itself, and not of its architecture: not taken over from the policy that it starts from.
OWN = {
    "input_features",
    "output_features",
    "device",
    "push_to_hub",
    "repo_id",
    "private",
    "tags",
    "license",
    "pretrained_path",
}


@dataclass
class DualHeads:
    """Options of the failure expert.

    Attributes:
        base: the checkpoint to start from, a folder or a name on the hub; its architecture is taken over.
        failures: the LeRobotDataset with failed episodes, a folder or a name. Needed to train, not to act.
        failures_root: where that dataset lies, when ``failures`` is its name.
        eta: weight of the failure expert's loss.
        negative_batch: frames of failed episodes a training step.
        failure_tail: learn only the last so many frames of each failed episode; 0 learns all of them.
        alpha: strength of the guidance; 0 acts as the plain policy, bit for bit.
        scale: mean divergence of the two experts, by which it is divided; see ``failwise.steer.afil``.
        clamp: the guidance is never longer than so many times the prediction; 0 for no bound.
    """

    base: str = ""
    failures: str = ""
    failures_root: str = ""
    eta: float = 1.0
    negative_batch: int = 8
    failure_tail: int = 0
    alpha: float = 1.0
    scale: float = 1.0
    clamp: float = 1.0

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            ValueError: with the option, its value, and what is allowed. LeRobot shows it as an error of the command.
        """
        for name, least in (("eta", 0.0), ("alpha", 0.0), ("clamp", 0.0), ("failure_tail", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"--policy.{name} must be at least {least}, not {getattr(self, name)}")
        if not self.scale > 0:
            raise ValueError(f"--policy.scale must be positive, not {self.scale}")
        if self.negative_batch < 1:
            raise ValueError(f"--policy.negative_batch must be at least 1, not {self.negative_batch}")

    def take_over(self, kind: str) -> None:
        """Take the architecture of ``base``, where the command line did not say otherwise.

        Raises:
            ValueError: ``base`` is another kind of policy.
        """
        if not self.base:
            return
        base = PreTrainedConfig.from_pretrained(self.base)
        if base.type not in (kind, f"failwise_{kind}"):
            raise ValueError(
                f"--policy.base {self.base} is a policy of type {base.type!r}; this one starts from {kind!r}"
            )
        for about in fields(type(base)):
            if about.name in OWN or about.name in DualHeads.__dataclass_fields__:
                continue
            if getattr(self, about.name) == _default(about):
                setattr(self, about.name, getattr(base, about.name))


def _default(about: Any) -> Any:
    if about.default is not MISSING:
        return about.default
    return about.default_factory() if about.default_factory is not MISSING else None
