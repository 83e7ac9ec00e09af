"""A hand, a thing and a goal in empty space over a table: carrying without a simulator."""

from __future__ import annotations

import numpy as np

from failwise.envs.given import LayoutSeeds, checked_action, checked_options
from failwise.envs.lazy import LazyImages
from failwise.types import EnvSpec, Observation

STEP_M, FALL_M, GRIP_M, GOAL_M = 0.02, 0.03, 0.03, 0.05
CONDITIONS = ("near_object", "grasped", "success")


class Carrying:
    """Actions (4,) in [-1, 1]: motion x, y, z in units of 2 cm, gripper (positive closes). A loose thing falls."""

    axes = ("x", "y", "z")
    gripper = (3, 1.0)
    workspace = (np.array([-0.5, -0.5, 0.0]), np.array([0.5, 0.5, 0.5]))

    def __init__(self, step_limit=150):
        self.spec = EnvSpec(
            env_id="table/carry", instruction="put the thing on the goal", paraphrases=(), held_out=(),
            action_low=-np.ones(4, np.float32), action_high=np.ones(4, np.float32),
            state_names=("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening_01"), cameras={"top": (8, 8)},
            conditions=CONDITIONS, step_limit=step_limit, control_hz=20.0,
        )  # fmt: skip
        self.version = 0
        self.layouts = LayoutSeeds(self.spec.env_id)
        self.state = np.zeros(12)  # hand, thing, goal; open, held, steps

    def reset(self, *, seed=None, options=None):
        self.words = checked_options(self.spec, options)
        seed = self.layouts.draw(seed)
        draw = np.random.default_rng(seed).uniform
        hand, thing, goal = draw(-0.1, 0.1, 3), draw(-0.05, 0.05, 3), draw(-0.05, 0.05, 3)
        hand[2], thing[0], thing[2], goal[0], goal[2] = 0.3, thing[0] - 0.25, 0.02, goal[0] + 0.25, 0.02
        self.state = np.concatenate([hand, thing, goal, [1.0, 0.0, 0.0]])
        self.version += 1
        return self.observe(), {"conditions": self.conditions(), "success": False, "seed": seed}

    def step(self, action):
        a = checked_action(self.spec, action).astype(float)
        s = self.state = self.state.copy()
        s[:3] = np.clip(s[:3] + STEP_M * a[:3], *self.workspace)
        was_open, s[9] = s[9], float(a[3] < 0)
        s[10] = float(not s[9] and (s[10] or (was_open and np.linalg.norm(s[:3] - s[3:6]) < GRIP_M)))
        if s[10]:
            s[3:6] = s[:3]
        else:
            s[5] = max(0.02, s[5] - FALL_M)
        s[11] += 1
        self.version += 1
        conditions = self.conditions()
        done = conditions["success"]
        truncated = bool(s[11] >= self.spec.step_limit)
        return self.observe(), float(done), False, truncated, {"conditions": conditions, "success": done}

    def conditions(self):
        hand, thing, goal = self.state[:9].reshape(3, 3)
        placed = np.linalg.norm(thing - goal) < GOAL_M and not self.state[10]
        near = np.linalg.norm(hand - thing) < GRIP_M
        return {"near_object": bool(near), "grasped": bool(self.state[10]), "success": bool(placed)}

    def observe(self):
        version = self.version
        shade = self.state[:9].tobytes()
        picture = np.resize(np.frombuffer(shade, np.uint8), (8, 8, 3))
        images = LazyImages(("top",), lambda _: picture.copy(), lambda: self.version == version)
        return Observation(images, self.state[[0, 1, 2, 9]].astype(np.float32), self.words)

    def poses(self):
        return dict(zip(("hand", "object", "goal"), self.state[:9].reshape(3, 3).copy(), strict=True))

    def hand(self):
        return np.append(self.state[:3], np.zeros(3))

    def nudge(self, error_6):
        return np.append(np.clip(np.asarray(error_6)[:3] / STEP_M, -1, 1), 0).astype(np.float32)

    def snapshot(self):
        return {"state": self.state.copy(), "words": np.frombuffer(self.words.encode(), np.uint8).copy()}

    def restore(self, snapshot):
        self.state, self.words = np.array(snapshot["state"]), bytes(snapshot["words"]).decode()
        self.version += 1
        return self.observe()

    def expert(self):
        return None

    def close(self):
        pass
