"""What moves on the tiny table, how, and the scripted experts that see all of it. Pure floats, no pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

DT_S = 0.1
HALF = 0.5  # of the table's side, metres
TOP_SPEED = 0.5  # m/s at action 1
LAG = 0.6  # share of the gap to the commanded velocity closed in one step
OPENING_RATE = 0.5  # of the gripper's stroke per step
CLOSED = 0.3  # an opening below this grips
DISC_RADIUS, GRIP_RADIUS = 0.05, 0.04
ROBOT_RADIUS, PUCK_RADIUS, GOAL_RADIUS = 0.03, 0.04, 0.08
SLIDE = 0.5  # share of a puck's velocity left after one step

Pair = tuple[float, float]
Command = tuple[float, float, float]


@dataclass
class World:
    """All that moves, in metres and m/s. ``first`` and ``second``: the red and blue disc, or the puck and the goal."""

    x: float = 0.0
    y: float = 0.0
    vx: float = 0.0
    vy: float = 0.0
    opening: float = 1.0
    first: Pair = (0.0, 0.0)
    second: Pair = (0.0, 0.0)
    puck_vx: float = 0.0
    puck_vy: float = 0.0
    holding: int = -1  # index of the gripped disc, -1 for none
    steps: int = 0

    @property
    def robot(self) -> Pair:
        """Where the robot is."""
        return self.x, self.y


def move_robot(w: World, command: Command) -> None:
    """One step of the robot: velocity with a first-order lag, stopped at the table's edge; then the gripper."""
    ax, ay, grip = command
    w.vx += LAG * (ax * TOP_SPEED - w.vx)
    w.vy += LAG * (ay * TOP_SPEED - w.vy)
    w.x, w.vx = _inside(w.x + w.vx * DT_S, w.vx)
    w.y, w.vy = _inside(w.y + w.vy * DT_S, w.vy)
    w.opening += min(max((1.0 - grip) / 2 - w.opening, -OPENING_RATE), OPENING_RATE)


def grip_disc(w: World, was_open: bool) -> None:
    """A gripper that closes over a disc holds it, until it opens or moves away."""
    distances = [math.dist(w.robot, disc) for disc in (w.first, w.second)]
    nearest = int(distances[1] < distances[0])
    if w.opening >= CLOSED or distances[nearest] > GRIP_RADIUS:
        w.holding = -1
    elif was_open:
        w.holding = nearest


def slide_puck(w: World) -> None:
    """One step of the puck: it slides on, is pushed out of the robot, and takes over its speed along the normal."""
    px, py = w.first[0] + w.puck_vx * DT_S, w.first[1] + w.puck_vy * DT_S
    w.puck_vx, w.puck_vy = SLIDE * w.puck_vx, SLIDE * w.puck_vy
    dx, dy = px - w.x, py - w.y
    gap, reach = math.hypot(dx, dy), ROBOT_RADIUS + PUCK_RADIUS
    if gap < reach:
        nx, ny = (dx / gap, dy / gap) if gap > 1e-9 else (1.0, 0.0)
        px, py = w.x + nx * reach, w.y + ny * reach
        speed = max(w.vx * nx + w.vy * ny, 0.0)
        w.puck_vx, w.puck_vy = speed * nx, speed * ny
    w.first = (px, py)


def puck_off_table(w: World) -> bool:
    """Whether the puck's centre has left the table."""
    return max(abs(w.first[0]), abs(w.first[1])) > HALF


def reach_expert(w: World, target: int) -> Command:
    """Go to the target disc, then close the gripper."""
    goal = (w.first, w.second)[target]
    close = math.dist(w.robot, goal) < 0.5 * GRIP_RADIUS
    return (*_towards(w, goal), 1.0 if close else -1.0)


def push_expert(w: World) -> Command:
    """Circle the puck to the side away from the goal, then push through its centre."""
    distance = math.dist(w.first, w.second)
    if distance < 0.4 * GOAL_RADIUS:
        return 0.0, 0.0, 1.0
    nx, ny = (w.second[0] - w.first[0]) / distance, (w.second[1] - w.first[1]) / distance
    rx, ry = w.x - w.first[0], w.y - w.first[1]
    along, across = rx * nx + ry * ny, ry * nx - rx * ny  # of the robot from the puck; (nx, ny) points to the goal
    gap, touch = math.hypot(rx, ry), ROBOT_RADIUS + PUCK_RADIUS
    off = math.atan2(across, -along)  # 0 exactly behind the puck
    if abs(off) < 0.3 and gap < touch + 0.06:
        go, side = min(max(2.0 * distance, 0.15), 0.8), -12.0 * across
    else:
        turn = math.copysign(min(1.0, 2.0 * abs(off)), across)
        out = min(max((touch + 0.03 - gap) / 0.04, -1.0), 1.0)
        go, side = (out * along - turn * across) / gap, (out * across + turn * along) / gap
    return go * nx - side * ny, go * ny + side * nx, 1.0


def _inside(position: float, speed: float) -> Pair:
    """Keep the robot on the table; its edge stops it."""
    return (position, speed) if -HALF <= position <= HALF else (math.copysign(HALF, position), 0.0)


def _towards(w: World, goal: Pair) -> Pair:
    """Velocity command towards a point: full speed from afar, slowing down on arrival."""
    dx, dy = goal[0] - w.x - 0.06 * w.vx, goal[1] - w.y - 0.06 * w.vy
    distance = math.hypot(dx, dy)
    gain = min(1.0, distance / 0.08) / max(distance, 1e-9)
    return gain * dx, gain * dy
