"""Each mode changes exactly what it says, and what is not changed is repeated bit for bit."""

from dataclasses import fields

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.errors import FailwiseError
from failwise.generate.modes import MODES, RAMP, Perturbation, check_mode, perturb
from failwise.generate.plan import Plan, Run, Script, execute, expert_arm, make_plan, stage_at
from failwise.types import HAND_AXES

T, A = 60, 7
SPANS = {"near_object": (0, 20), "grasped": (20, 30), "near_goal": (30, 50), "success": (50, 60)}
CLOSES = 24


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A made-up plan of 60 steps: open until step 24, closed from there on."""
    random = np.random.default_rng(0)
    run = Run([], [random.normal(size=6) for _ in range(T + 1)], [])
    run.actions = [random.uniform(-1, 1, A).astype(np.float32) for _ in range(T)]
    closing = np.where(np.arange(T) < CLOSES, -1.0, 1.0).astype(np.float32)
    return Plan(run, SPANS, closing)


def changed(plan: Plan, **about: object) -> tuple[Script, set[str]]:
    """The script of a perturbation, and the names of its arrays that differ from the plan's."""
    script = perturb(plan, Perturbation(**about))  # type: ignore[arg-type]
    assert script is not None
    before = Script.of(plan)
    names = [f.name for f in fields(Script) if f.name not in ("onset", "end")]
    differing = {n for n in names if not np.array_equal(getattr(script, n), getattr(before, n))}
    for name in differing:
        now, then = getattr(script, name), getattr(before, name)
        assert np.array_equal(now[: script.onset], then[: script.onset]), "nothing changes before the onset"
    return script, differing


@pytest.mark.parametrize(("mode", "axis"), [("translation", "y"), ("translation", "z"), ("rotation", "yaw")])
def test_a_displacement_moves_one_axis_by_its_magnitude_and_comes_back(plan: Plan, mode: str, axis: str) -> None:
    script, differing = changed(plan, mode=mode, axis=axis, stage="near_goal", magnitude=-0.08)
    assert differing == {"hands"}
    shift = script.hands - np.stack(plan.run.hands[:T])
    others = [i for i in range(6) if HAND_AXES[i] != axis]
    assert not shift[:, others].any()
    along = shift[:, HAND_AXES.index(axis)]
    np.testing.assert_allclose(along[30 + RAMP - 1 : 50], -0.08)
    assert not along[:30].any()
    assert script.onset == 30
    assert along[59] == pytest.approx(-0.08 / RAMP), "it leaves again in the stage after it"


def test_a_goal_that_is_another_stays_another(plan: Plan) -> None:
    script, differing = changed(plan, mode="wrong_goal", axis="x", stage="near_goal", magnitude=0.1)
    assert differing == {"hands"}
    np.testing.assert_allclose((script.hands - np.stack(plan.run.hands[:T]))[40:, 0], 0.1)


def test_another_thing_is_really_taken_and_the_way_there_is_its_own() -> None:
    env = expert_arm(make_env("tiny/reach"))
    taken = 0
    for seed in range(400_000, 400_012):
        if (way := make_plan(env, seed, env.spec.instruction)) is None:
            continue
        assert list(way.others) == ["other_disc"]
        stage = next(name for name, (start, stop) in way.spans.items() if start <= np.argmax(way.closing > 0) < stop)
        script = perturb(way, Perturbation(mode="wrong_object", axis="other_disc", stage=stage, magnitude=1))
        assert script is not None and script.onset == 0
        shift = script.hands[RAMP:, :3] - np.stack(way.run.hands[: len(way.run)])[:, :3]
        np.testing.assert_allclose(shift, np.broadcast_to(way.others["other_disc"], shift.shape), atol=1e-12)
        np.testing.assert_array_equal(script.closing[RAMP:], way.closing)
        run = execute(env, way, script)
        assert run.first_success is None
        taken += run.ended  # gripping the wrong disc ends the task
    assert taken >= 8


def test_a_misaligned_grasp_is_displaced_when_it_closes(plan: Plan) -> None:
    script, _ = changed(plan, mode="misaligned_grasp", axis="x", stage="grasped", magnitude=0.03)
    assert script.onset == CLOSES - 2 * RAMP
    assert script.hands[CLOSES, 0] - plan.run.hands[CLOSES][0] == pytest.approx(0.03)


def test_a_noop_loses_commands_and_only_those(plan: Plan) -> None:
    script, differing = changed(plan, mode="noop", stage="near_goal", magnitude=12, at=0.5)
    assert differing == {"frozen"}
    assert np.flatnonzero(script.frozen).tolist() == list(range(40, 52))
    script, differing = changed(plan, mode="noop", stage="grasped", magnitude=12)
    assert differing == {"frozen", "closing"}, "the command to close came while it was frozen"
    assert script.closing[CLOSES] == -1.0
    assert script.closing[32] == 1.0


@pytest.mark.parametrize(
    ("about", "opened"),
    [
        ({"mode": "slip", "stage": "near_goal", "magnitude": 7.0}, range(30, 37)),
        ({"mode": "early_release", "stage": "near_goal", "magnitude": 1.0, "at": 0.5}, range(40, 60)),
        ({"mode": "late_close", "stage": "grasped", "magnitude": 9.0}, range(24, 33)),
        ({"mode": "no_grasp", "stage": "grasped", "magnitude": 1.0}, range(24, 60)),
    ],
)
def test_what_opens_the_gripper_opens_it_then_and_nothing_else(plan: Plan, about: dict, opened: range) -> None:
    script, differing = changed(plan, **about)
    assert differing == {"closing"}
    assert np.flatnonzero((script.closing < 0) & (plan.closing > 0)).tolist() == list(opened)


def test_speed_drops_steps_of_one_stage_and_a_sequence_swaps_two(plan: Plan) -> None:
    script, _ = changed(plan, mode="speed", stage="near_object", magnitude=4.0)
    assert len(script.actions) == T - 15
    np.testing.assert_array_equal(script.actions[:5], np.stack(plan.run.actions)[:20:4])
    np.testing.assert_array_equal(script.actions[5:], np.stack(plan.run.actions)[20:])
    script, _ = changed(plan, mode="wrong_sequence", stage="grasped", magnitude=1.0)
    np.testing.assert_array_equal(script.actions[20:40], np.stack(plan.run.actions)[30:50])
    np.testing.assert_array_equal(script.actions[40:50], np.stack(plan.run.actions)[20:30])


@pytest.mark.parametrize(
    ("mode", "stage"),
    [
        ("slip", "near_object"), ("early_release", "near_object"), ("late_close", "near_goal"), ("slip", "elsewhere"),
        ("misaligned_grasp", "near_object"), ("wrong_goal", "near_object"), ("wrong_sequence", "success"),
    ],
)  # fmt: skip
def test_a_mode_does_not_apply_where_there_is_nothing_to_change(plan: Plan, mode: str, stage: str) -> None:
    axis = MODES[mode].axes[0] if MODES[mode].axes else ""
    assert perturb(plan, Perturbation(mode=mode, axis=axis, stage=stage, magnitude=0.05)) is None


@pytest.mark.parametrize("env_id", ["tiny/reach", "tiny/push", "metaworld/pick-place"])
def test_a_plan_without_a_change_is_repeated_bit_for_bit_even_with_the_hand_led(env_id: str) -> None:
    env = expert_arm(make_env(env_id))
    plan = make_plan(env, 400_001, env.spec.instruction)
    assert plan is not None
    script = Script.of(plan)
    led = Script(script.actions, script.hands, script.closing, script.frozen, 0, len(script.actions))
    for one in (script, led):
        run = execute(env, plan, one)
        np.testing.assert_array_equal(np.stack(run.actions), np.stack(plan.run.actions))
        np.testing.assert_array_equal(np.stack(run.states), np.stack(plan.run.states))
        assert run.first_success == plan.run.first_success


@pytest.mark.parametrize(
    ("mode", "env_id", "magnitude", "message"),
    [
        ("pushed", "tiny/push", None, "unknown failure mode 'pushed'"),
        ("rotation", "tiny/push", None, "cannot move along roll, pitch, yaw"),
        ("translation", "tiny/push", (2.0, 3.0), r"by 2 m or more along x leaves the workspace of tiny/push, 1\.00 m"),
        ("wrong_object", "tiny/push", None, "nothing else that could be taken"),
        ("translation", "tiny/push", (0.2, 0.1), "LOW:HIGH with 0 < LOW <= HIGH, not 0.2:0.1"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(mode: str, env_id: str, magnitude, message: str) -> None:
    with pytest.raises(FailwiseError, match=message):
        check_mode(mode, expert_arm(make_env(env_id)), magnitude)


@pytest.fixture(scope="module")
def push(plan: Plan) -> Plan:
    """The same plan with fingers that are closed all the time: a push, which begins at step 29."""
    return Plan(plan.run, SPANS, np.ones(T, np.float32))


def test_a_push_beside_the_middle_stays_beside_it_and_one_elsewhere_begins_with_the_touch(push: Plan) -> None:
    at = HAND_AXES.index("y")
    beside, differing = changed(push, mode="misaligned_grasp", axis="y", stage="grasped", magnitude=0.03)
    assert differing == {"hands"} and beside.onset == 29 - 2 * RAMP
    np.testing.assert_allclose(beside.hands[29:50, at] - Script.of(push).hands[29:50, at], 0.03)
    elsewhere, _ = changed(push, mode="wrong_goal", axis="y", stage="near_goal", magnitude=-0.1)
    assert elsewhere.onset == 30
    np.testing.assert_allclose(elsewhere.hands[40:, at] - Script.of(push).hands[40:, at], -0.1)


@pytest.mark.parametrize(
    "about",
    [
        {"mode": "misaligned_grasp", "axis": "x", "stage": "near_object"},
        {"mode": "wrong_goal", "axis": "x", "stage": "near_object"},
        {"mode": "slip", "stage": "near_goal"},
        {"mode": "early_release", "stage": "near_goal"},
        {"mode": "no_grasp", "stage": "grasped"},
    ],
)
def test_what_is_not_touched_yet_or_never_held_cannot_be_lost(push: Plan, about: dict[str, str]) -> None:
    assert perturb(push, Perturbation(magnitude=0.05, **about)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [("near", "held", "done"), ("done", "held", "near")])
def test_the_stage_of_a_step_does_not_depend_on_the_order_in_which_a_file_lists_them(order) -> None:
    spans = {"near": [0, 5], "held": [5, 9], "done": [9, 12]}
    listed = {name: spans[name] for name in order}
    assert [stage_at(listed, step) for step in (0, 4, 5, 8, 9, 11, 12, 99)] == [
        "near", "near", "held", "held", "done", "done", "done", "done",
    ]  # fmt: skip
