"""Names of an observation's parts, in both directions."""

import json

import numpy as np
import pytest

from failwise.errors import SetupError, WireError
from failwise.types import Observation
from failwise.wire import KeyMap
from failwise.wire.keys import PRESETS

IMAGES = {"front": np.full((4, 4, 3), 1, np.uint8), "wrist": np.full((2, 4, 3), 2, np.uint8)}
SEEN = Observation(IMAGES, np.arange(8, dtype=np.float32), "grip")


def equal(a, b):
    return (
        a.images.keys() == b.images.keys()
        and all(np.array_equal(a.images[k], b.images[k]) for k in a.images)
        and np.array_equal(a.state, b.state)
        and a.instruction == b.instruction
    )


@pytest.mark.parametrize("keys", [KeyMap.usual(["front", "wrist"]), *map(KeyMap, PRESETS.values())])
def test_what_is_written_is_read_again(keys):
    keys = keys.named(["front", "wrist"])
    assert equal(keys.read(keys.write(SEEN)), SEEN)


def test_the_usual_names():
    assert list(KeyMap.usual(["front"]).sources) == ["observation/images/front", "observation/state", "prompt"]


def test_presets_are_those_of_openpis_examples():
    droid = KeyMap(PRESETS["droid"]).write(SEEN)
    assert droid["observation/exterior_image_1_left"] is not None
    assert droid["observation/joint_position"].tolist() == list(range(7))
    assert droid["observation/gripper_position"].tolist() == [7]
    libero = KeyMap(PRESETS["libero"]).write(SEEN)
    assert np.array_equal(libero["observation/wrist_image"], IMAGES["wrist"])


def test_a_file_names_them(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"cam": "image:wrist", "q": "state:2:4", "task": "instruction"}))
    keys = KeyMap.parse(str(path))
    message = keys.write(SEEN)
    assert message["q"].tolist() == [2, 3] and message["task"] == "grip"
    assert list(keys.read(message).images) == ["wrist"]


def test_no_file_and_no_name():
    assert KeyMap.parse("") is None and KeyMap.parse("failwise") is None
    with pytest.raises(SetupError, match="neither a file nor one of failwise, libero, droid"):
        KeyMap.parse("nowhere.json")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"a": "nothing"}',
        '{"a": "image"}',
        '{"a": "state:4:2"}',
        '{"a": "state", "b": "state"}',
        '{"failwise/x": "state"}',
        '{"a": "instruction:1"}',
    ],
)
def test_a_file_that_names_nothing_usable_is_refused(text, tmp_path):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(SetupError):
        KeyMap.parse(str(tmp_path / "keys.json"))


def test_cameras_by_number_need_that_many():
    with pytest.raises(SetupError, match="camera number 1, counted from 0, of front"):
        KeyMap(PRESETS["libero"]).named(["front"])


def test_a_camera_that_the_environment_lacks():
    with pytest.raises(SetupError, match=r"wants camera 'side'.*front, wrist"):
        KeyMap({"x": "image:side"}).write(SEEN)
    with pytest.raises(SetupError, match="state, which has 8 numbers"):
        KeyMap({"x": "state:4:9"}).write(SEEN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "'prompt' must be text"),
        ({"prompt": " "}, "'prompt' is blank"),
        ({"observation/images/front": np.zeros((0, 4, 3), np.uint8)}, r"must be an image.*got uint8 \(0, 4, 3\)"),
        ({"prompt": "x" * 3000}, "at most 2000 characters, got 3000"),
        ({"observation/state": "1, 2"}, "one row of finite numbers"),
        ({"observation/state": np.array([np.nan])}, "one row of finite numbers"),
        ({"observation/state": [[1.0]]}, "one row of finite numbers"),
        (
            {"observation/images/front": np.zeros((3, 4, 4), np.uint8)},
            r"uint8 \(height, width, 3\), got uint8 \(3, 4, 4\)",
        ),
        ({"observation/images/front": np.zeros((4, 4, 3))}, "got float64"),
        ({"observation/images/front": b"png"}, "got bytes"),
    ],
)
def test_an_observation_of_another_kind_is_refused(change, said):
    keys = KeyMap.usual(["front"])
    with pytest.raises(WireError, match=said):
        keys.read(keys.write(SEEN) | change)


def droid_message(**changes):
    named = KeyMap(PRESETS["droid"]).named(["front", "wrist"])
    return named, named.write(SEEN) | {f"observation/{name}": value for name, value in changes.items()}


def test_the_gripper_of_one_number_may_come_without_an_axis():
    for bare in (np.float64(0.25), np.array(0.25), 0.25):
        keys, message = droid_message(gripper_position=bare)
        assert keys.read(message).state.tolist() == [*range(7), 0.25]
    keys, message = droid_message(joint_position=np.float64(0.25))
    with pytest.raises(WireError, match="'observation/joint_position' must be one row of finite numbers"):
        keys.read(message)


def test_a_part_of_the_state_must_have_its_width():
    keys, message = droid_message(joint_position=np.zeros(6), gripper_position=np.zeros(2))
    with pytest.raises(WireError, match=r"'observation/joint_position' must have 7 numbers \(state:0:7\), got 6"):
        keys.read(message)


def test_what_is_missing_is_named_beside_what_is_there():
    with pytest.raises(WireError, match="lacks 'observation/images/front'; it has observation/state, prompt"):
        KeyMap.usual(["front"]).read({"prompt": "x", "observation/state": [1.0]})


def test_numbers_may_come_as_a_list_or_as_doubles():
    keys = KeyMap({"q": "state"})
    for numbers in ([1, 2], np.array([1.0, 2.0])):
        state = keys.read({"q": numbers}).state
        assert state.dtype == np.float32 and state.tolist() == [1, 2]
