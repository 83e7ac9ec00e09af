"""Environments are found by name, as people write it, and a wrong name is answered with the nearest."""

import pytest

from failwise.envs import list_tasks, make_env, parse_env_ids
from failwise.errors import SetupError, UnknownNameError


def test_the_suite_carries_over() -> None:
    assert parse_env_ids("tiny/push, reach") == ["tiny/push", "tiny/reach"]
    assert parse_env_ids("metaworld/pick-place,push,tiny/push") == [
        "metaworld/pick-place", "metaworld/push", "tiny/push",
    ]  # fmt: skip


def test_a_star_is_every_task_and_nothing_comes_twice() -> None:
    assert parse_env_ids("tiny/*") == ["tiny/reach", "tiny/push"] == [f"tiny/{t}" for t in list_tasks("tiny")]
    assert parse_env_ids("tiny/push,*") == ["tiny/push", "tiny/reach"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny/pusch", r"unknown tiny task 'pusch'. Did you mean 'push'"),
        ("tyni/push", r"unknown env 'tyni'. Did you mean 'tiny'"),
        ("push", r"'push' is not of the form SUITE/TASK"),
        ("tiny/", r"'tiny/' is not of the form SUITE/TASK"),
        ("", r"no environment named"),
        (",", r"no environment named"),
    ],
)
def test_a_wrong_name_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        parse_env_ids(text)
    assert "\n" not in str(caught.value)


def test_making_one() -> None:
    assert make_env("tiny/reach", image_size=16).spec.cameras["top"] == (16, 16)
    with pytest.raises(UnknownNameError, match="reach"):
        make_env("tiny/reech")
    with pytest.raises(SetupError, match="form SUITE/TASK"):
        make_env("tiny")
    with pytest.raises(SetupError, match=r"does not take one of its options.*'weather'"):
        make_env("tiny/reach", weather="rain")
