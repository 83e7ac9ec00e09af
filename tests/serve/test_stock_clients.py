"""Clients as they are: the messages that openpi's examples send, and openpi's own client."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from failwise.agent import load_agent
from failwise.errors import DataError
from failwise.serve import Served
from failwise.serve.resizing import Resizing, resize_with_pad, stretch
from failwise.types import Observation, PolicySpec
from failwise.wire import KeyMap, pack
from failwise.wire.keys import PRESETS

from .loopback import SENTENCES, ask, client, serving

SIDE = 224  # openpi's examples send squares of this side


def image(seed=0, height=SIDE, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


STOCK = {
    "libero": {
        "observation/image": image(0),
        "observation/wrist_image": image(1),
        "observation/state": np.linspace(-1, 1, 8),
        "prompt": "put the bowl on the plate",
    },
    "droid": {
        "observation/exterior_image_1_left": image(0),
        "observation/wrist_image_left": image(1),
        "observation/joint_position": np.linspace(-1, 1, 7),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "put the bowl on the plate",
    },
    "failwise": {
        "observation/images/front": image(0),
        "observation/state": np.linspace(-1, 1, 8, dtype=np.float32),
        "prompt": "put the bowl on the plate",
    },
}


def test_every_map_that_comes_along_has_a_stock_message_here():
    assert STOCK.keys() == {"failwise", *PRESETS}


@pytest.mark.parametrize("width", [7, 8])
@pytest.mark.parametrize("name", STOCK)
def test_a_random_policy_answers_the_client_of_any_robot(name, width):
    with serving(Served(f"random:{width}", keys=KeyMap.parse(name))) as (_, port), client(port) as (socket, first):
        about = first["failwise"]
        assert about["keys"] == {"prompt": "instruction"}
        assert set(about["unread_keys"]) >= STOCK[name].keys() - {"prompt", "observation/images/front"}
        own = {"failwise/seed": 5, "failwise/reset": True}
        reply = ask(socket, pack(STOCK[name] | own))
        assert reply["actions"].shape == (8, width) and np.abs(reply["actions"]).max() <= 1
        only_prompt = ask(socket, pack({"prompt": "go"} | own))
        assert np.array_equal(only_prompt["actions"], reply["actions"]), "what is not read changes nothing"


def test_openpis_own_client_tries_its_droid_call_against_a_random_policy():
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    with serving(Served("random:8", keys=KeyMap.parse("droid"))) as (_, port):
        remote = theirs.WebsocketClientPolicy("127.0.0.1", port)
        for _ in range(2):
            actions = remote.infer(STOCK["droid"])["actions"]
            assert actions.shape == (8, 8) and np.isfinite(actions).all()
        remote._ws.close()


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("observation/wrist_image_left", image().astype(np.float32), "must be an image, uint8"),
        ("observation/joint_position", np.zeros(8), r"must have 7 numbers (state:0:7), got 8"),
        ("observation/gripper_position", np.array([np.nan]), "must be one row of finite numbers"),
    ],
)
def test_a_trial_tells_a_client_what_a_policy_of_its_robot_would_refuse(key, value, line):
    with serving(Served("random:8", keys=KeyMap.parse("droid"))) as (_, port), client(port) as (socket, _):
        refusal = ask(socket, pack(STOCK["droid"] | {key: value}))
        assert refusal.startswith(f"{key!r} {line}")
        assert "actions" in ask(socket, pack(STOCK["droid"]))


def libero_call(**changes):
    """What openpi's LIBERO client sends, in the state and sentence of the small policy."""
    fitting = {"observation/state": np.linspace(-1, 1, 5), "prompt": SENTENCES[0]}
    return STOCK["libero"] | fitting | {f"observation/{name}": value for name, value in changes.items()}


def test_openpis_own_client_makes_its_libero_call_of_224_pixels_to_a_policy_of_32(small):
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    tools = pytest.importorskip("openpi_client.image_tools")
    call = libero_call()
    agent = load_agent(str(small))
    agent.execute = 4
    agent.begin(None, 11)
    with serving(Served(str(small), keys=KeyMap.parse("libero"))) as (_, port):
        remote = theirs.WebsocketClientPolicy("127.0.0.1", port)
        assert remote.get_server_metadata()["failwise"]["resize"] == "same-aspect"
        reply = remote.infer(call | {"failwise/reset": np.bool_(True), "failwise/seed": np.int64(11)})
        remote._ws.close()
    names = {"robot": "observation/image", "top": "observation/wrist_image"}
    images = {camera: tools.resize_with_pad(call[key], 32, 32) for camera, key in names.items()}
    shown = Observation(images, call["observation/state"].astype(np.float32), call["prompt"])
    assert reply["actions"].tobytes() == agent.act(shown).actions.tobytes()


@pytest.mark.parametrize(
    ("height", "width", "to"),
    [(224, 224, (48, 48)), (32, 32, (224, 224)), (480, 640, (224, 224)), (640, 480, (224, 224)), (128, 227, (90, 160)),
     (720, 1280, (224, 224)), (96, 96, (96, 96)), (240, 320, (96, 128)), (5, 900, (64, 64))],
)  # fmt: skip
def test_padding_is_openpis_to_the_bit(height, width, to):
    tools = pytest.importorskip("openpi_client.image_tools", reason="openpi-client is not installed")
    shown = image(3, height, width)
    padded = resize_with_pad(shown, *to)
    assert padded.shape == (*to, 3)
    if min(height, width) > 5:
        assert np.array_equal(padded, tools.resize_with_pad(shown, *to))


def test_what_is_padded_is_black_and_in_the_middle():
    white = np.full((48, 64, 3), 255, np.uint8)
    padded = resize_with_pad(white, 32, 32)
    assert padded[4:28].min() == 255 and padded[:4].max() == padded[28:].max() == 0
    high = resize_with_pad(white.transpose(1, 0, 2), 32, 32)
    assert np.array_equal(high, padded.transpose(1, 0, 2))
    assert resize_with_pad(np.full((224, 224, 3), 255, np.uint8), 100, 100).min() == 255, "no edge is left black"


def test_stretching_is_pillows_bilinear_filter():
    shown = image(4, 48, 64)
    expected = np.asarray(Image.fromarray(shown).resize((32, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(stretch(shown, 24, 32), expected)


WIDE = image(5, 48, 64)
TAKES = "'observation/image' (camera 'robot') has the shape (48, 64, 3), the policy takes (32, 32, 3); send that, or "


@pytest.mark.parametrize(("mode", "resize"), [("pad", resize_with_pad), ("stretch", stretch)])
def test_another_aspect_ratio_is_resized_as_the_option_says(small, mode, resize, caplog):
    seen = libero_call(image=WIDE)
    fitting = libero_call(image=resize(WIDE, 32, 32), wrist_image=stretch(seen["observation/wrist_image"], 32, 32))
    own = {"failwise/reset": True, "failwise/seed": 3}
    actions = []
    for call in (seen, fitting):
        session = Served(str(small), keys=KeyMap.parse("libero"), resize=mode).session(0)
        actions += [session.answer(call | own)["actions"].tobytes() for _ in range(2)]
    assert len(set(actions)) == 1
    assert Counter("robot" in line for line in caplog.messages) == {True: 1, False: 1}, "once a camera, once a size"
    assert "'observation/wrist_image' (camera 'top') is resized from 224x224 to the policy's 32x32" in caplog.messages


def test_another_aspect_ratio_is_not_guessed(small):
    with (
        serving(Served(str(small), keys=KeyMap.parse("libero"))) as (_, port),
        client(port) as (socket, _),
    ):
        line = ask(socket, pack(libero_call(image=WIDE)))
        options = "--resize pad (keeps the aspect ratio, pads with black) or --resize stretch"
        assert line == f"{TAKES}serve with {options}"
        assert "actions" in ask(socket, pack(libero_call()))


@pytest.mark.parametrize(
    ("shown", "options"),
    [(WIDE, "--resize pad (keeps the aspect ratio, pads with black) or --resize stretch"),
     (image(), "--resize same-aspect")],
)  # fmt: skip
def test_with_resizing_off_a_refusal_names_key_shapes_and_option(small, shown, options):
    session = Served(str(small), keys=KeyMap.parse("libero"), resize="off").session(0)
    with pytest.raises(DataError) as refused:
        session.answer(libero_call(image=shown))
    line = str(refused.value)
    assert line.startswith(f"'observation/image' (camera 'robot') has the shape {shown.shape}, the policy takes (32,")
    assert line.endswith(f"serve with {options}")


def test_a_state_of_another_width_is_refused_under_its_keys(small):
    session = Served(str(small), keys=KeyMap.parse("libero")).session(0)
    with pytest.raises(DataError, match=r"^'observation/state': proprioception has 8 numbers, the policy takes 5"):
        session.answer(STOCK["libero"])


def test_a_policy_that_resizes_on_its_own_gets_images_as_they_come():
    spec = PolicySpec("any", 4, 4, 3, 5, {"robot": (32, 32), "top": (32, 32)})
    seen = Observation({"robot": WIDE, "top": image()}, np.zeros(5, np.float32), "go")
    keys = KeyMap.usual(["robot", "top"])
    with pytest.raises(DataError):
        Resizing(spec, keys)(seen)
    for mode in ("same-aspect", "pad", "stretch"):
        assert Resizing(replace(spec, resizes_images=True), keys, mode)(seen) is seen
