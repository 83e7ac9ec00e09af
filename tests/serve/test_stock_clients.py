"""Clients as they are: the messages that openpi's examples send, and openpi's own client."""

import numpy as np
import pytest

from failwise.serve import Served
from failwise.wire import KeyMap, pack
from failwise.wire.keys import PRESETS

from .loopback import ask, client, serving

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
