"""pi05 with a failure expert; see ``flow.py`` and ``pi.py``."""

from __future__ import annotations

from typing import Any

from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors

from lerobot_policy_failwise.configuration_failwise_pi05 import FailwisePi05Config
from lerobot_policy_failwise.pi import DualPi


class FailwisePi05Policy(DualPi, PI05Policy):
    """LeRobot's pi05; see ``DualFlow`` for what is added."""

    config_class = FailwisePi05Config
    name = "failwise_pi05"
    make_processors = staticmethod(make_pi05_pre_post_processors)

    def __init__(self, config: FailwisePi05Config, dataset_stats: Any = None, **kwargs: Any) -> None:
        PI05Policy.__init__(self, config, **kwargs)
        self.add_expert(self.acting_weights(), dataset_stats)
