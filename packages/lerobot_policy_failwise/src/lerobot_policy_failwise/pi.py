"""What pi0 and pi05 share: sampling by ``predict_action_chunk``, and checkpoints that LeRobot reads in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from lerobot_policy_failwise.flow import DualFlow
from lerobot_policy_failwise.heads import FAILURE

HUB = ("force_download", "proxies", "token", "cache_dir", "local_files_only", "revision")  # where a file is looked for


class DualPi(DualFlow):
    """A failure expert beside pi0's or pi05's; the subclass has LeRobot's policy as its other base."""

    _fix_pytorch_state_dict_keys: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
    load_state_dict: Callable[..., Any]

    def plain_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised, as pi samples it."""
        parent: Any = super()
        chunk: Tensor = parent.predict_action_chunk(batch, noise=noise, **kwargs)
        return chunk

    def predict_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised: steered where ``config.alpha`` is above 0."""
        self.train(False)
        return self.guided_chunk(batch, noise) if self.guided else self.plain_chunk(batch, noise, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: Any, *, config: Any = None, strict: bool = True, **kwargs: Any
    ) -> Any:
        """A checkpoint of this policy, or of the plain one, whose expert then begins both.

        LeRobot's own would take the failure expert for a part of the model, and go on with random weights where a file
        does not fit; this one raises what ``load_state_dict`` raises.

        Raises:
            RuntimeError: the checkpoint does not fit its configuration.
        """
        hub = {name: kwargs.pop(name) for name in HUB if name in kwargs}
        kwargs.pop("resume_download", None)
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **hub)
        policy: Any = cls(config, **kwargs)
        found = load_file(cached_file(pretrained_name_or_path, "model.safetensors", **hub))
        failing = {name: w for name, w in found.items() if name.startswith(f"{FAILURE}.")}
        acting = policy._fix_pytorch_state_dict_keys({n: w for n, w in found.items() if n not in failing}, config)
        acting = {name if name.startswith("model.") else f"model.{name}": weight for name, weight in acting.items()}
        if not failing:
            failing = {n: w for n, w in policy.state_dict().items() if n.startswith(f"{FAILURE}.")}
            policy.load_state_dict(acting | failing, strict=strict)
            policy.failure.copy_from(policy.acting_weights())
        else:
            policy.load_state_dict(acting | failing, strict=strict)
        policy.to(config.device)
        policy.eval()
        return policy
