"""Where everything was during an episode: recorded actions, replayed without pictures, with the simulator's own poses.

Episodes hold no object poses but those of the start, because no policy may see them; an environment that repeats
exactly for a seed gives them back at the cost of its physics alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from failwise.envs.leading import arm_of, closing_commands
from failwise.errors import EpisodeError, SetupError

if TYPE_CHECKING:
    from failwise.protocols import Environment
    from failwise.store import StoredEpisode

TOLERANCE = 1e-5  # of proprioception against the record, in its own units


@dataclass(frozen=True)
class Course:
    """An episode in the simulator's coordinates.

    Attributes:
        hand, thing: float64 (T + 1, 3), positions in metres before each action and after the last one.
        goal: float64 (3,), in metres.
        gripper: float32 (T,), the gripper's command, positive closes.
        conditions: name -> bool (T,), after each action, in the task's order.
        succeeded: whether the episode did.
    """

    hand: NDArray[np.float64]
    thing: NDArray[np.float64]
    goal: NDArray[np.float64]
    gripper: NDArray[np.float32]
    conditions: Mapping[str, NDArray[np.bool_]]
    succeeded: bool

    def __len__(self) -> int:
        return len(self.gripper)


def replay(env: Environment, episode: StoredEpisode) -> Course:
    """Replay an episode's actions and note where everything is.

    Raises:
        SetupError: the environment tells no poses, or not which of its actions closes the gripper.
        EpisodeError: the replay departs from the record.
    """
    poses = getattr(env, "poses", None)
    if poses is None:
        raise SetupError(f"{env.spec.env_id} tells no poses, so rules cannot say why an episode failed there")
    arm = arm_of(env, "a diagnosis by rules")
    actions, states = episode.actions(), episode.states()
    observation, _ = env.reset(seed=episode.meta.env_seed, options={"instruction": episode.meta.instruction})
    seen = [poses()]
    for step, action in enumerate(actions):
        if np.abs(observation.state - states[step]).max() > TOLERANCE:
            raise EpisodeError(f"the replay of {episode.id} departs from its record at step {step}")
        observation, *_ = env.step(action)
        seen.append(poses())
    hand, thing = (np.stack([p[name] for p in seen]) for name in ("hand", "object"))
    closing = closing_commands(arm, list(actions))
    return Course(hand, thing, seen[-1]["goal"], closing, episode.conditions(), episode.meta.outcome == "success")
