"""pi0 with a failure expert; see ``flow.py`` and ``pi.py``."""

from __future__ import annotations

from typing import Any

from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors

from lerobot_policy_failwise.configuration_failwise_pi0 import FailwisePi0Config
from lerobot_policy_failwise.pi import DualPi


class FailwisePi0Policy(DualPi, PI0Policy):
    """LeRobot's pi0; see ``DualFlow`` for what is added."""

    config_class = FailwisePi0Config
    name = "failwise_pi0"
    make_processors = staticmethod(make_pi0_pre_post_processors)

    def __init__(self, config: FailwisePi0Config, dataset_stats: Any = None, **kwargs: Any) -> None:
        PI0Policy.__init__(self, config, **kwargs)
        self.add_expert(self.acting_weights(), dataset_stats)
