"""Two scripted agents that carry a thing to its goal: one goes back for what it lost, one carries on. Privileged."""

from __future__ import annotations

import numpy as np

from failwise.envs.leading import with_gripper
from failwise.types import ActionChunk, Actor, Provenance

ABOVE_M, LOST_M = 0.12, 0.04


class Carrier:
    """An agent: above the thing, down, grip, up, over the goal, open.

    Args:
        looks: whether it sees that the thing is gone, and goes back for it; else it trusts what it did.
        beside: where to grip, from the thing's position, metres.
        steps_of_grip: how long the fingers take to close.
    """

    actor = Actor.EXPERT  # no pictures are taken for it

    def __init__(self, looks, beside=(0.0, 0.0, 0.0), steps_of_grip=12):
        self.looks, self.steps_of_grip = looks, steps_of_grip
        self.beside, self.up = np.array(beside), np.array([0.0, 0.0, ABOVE_M])

    def begin(self, env, seed):
        self.env, self.stage, self.waited = env, "above", 0

    def act(self, observation=None):
        return ActionChunk(self.action()[None])

    def provenance(self):
        return Provenance(agent="carrier")

    def action(self):
        poses = self.env.poses()
        at, thing = poses["hand"], poses["object"] + self.beside
        lost = np.linalg.norm(at - thing) > LOST_M
        if self.looks and lost and self.stage in ("up", "over", "open"):
            self.stage = "above"
        if self.stage == "up" and self.waited == 0:
            self.top = thing + self.up  # remembered, not looked up again: the thing may no longer be there
        target = {
            "above": thing + self.up,
            "down": thing,
            "grip": at,
            "up": getattr(self, "top", at),
            "over": poses["goal"] + self.beside + self.up,
            "open": poses["goal"] + self.beside + self.up,
        }[self.stage]
        closing = -1.0 if self.stage in ("above", "down", "open") else 1.0
        self.waited += 1
        if (self.waited > self.steps_of_grip) if self.stage == "grip" else np.linalg.norm(target - at) < 0.015:
            after = {"above": "down", "down": "grip", "grip": "up", "up": "over", "over": "open", "open": "open"}
            self.stage, self.waited = after[self.stage], 0
        turn = -self.env.hand()[3:]
        return with_gripper(self.env, self.env.nudge(np.concatenate([target - at, turn])), closing)
