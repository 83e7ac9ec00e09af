"""A VLM behind a real server on this machine: it is shown the last frames, and what it says is done, or not."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from failwise.envs.tiny import make
from failwise.errors import EpisodeError, SetupError
from failwise.recover.questions import Answer
from failwise.recover.takeover import TakeoverOptions, load_takeover
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import Actor

pytest.importorskip("openai")
from failwise.recover.vlm import VLMAdvisor

FAILING = Answer("near puck", True, "translation", "x", (0.05, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0))


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Answers every question with ``says``, and keeps what it was asked."""
    state = SimpleNamespace(says=FAILING.text(), asked=[], status=200)

    async def complete(request: Request) -> JSONResponse:
        state.asked.append(await request.json())
        if state.status != 200:
            return JSONResponse({"error": {"message": "the model fell over"}}, state.status)
        message = {"role": "assistant", "content": state.says}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        state.url = f"http://127.0.0.1:{ours.getsockname()[1]}/v1"
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [ours]}, daemon=True)
        thread.start()
        yield state
        running.should_exit = True
        thread.join(timeout=10)


def pictures(asked: dict) -> list[np.ndarray]:
    (message,) = asked["messages"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def test_it_is_shown_the_last_frames_of_every_camera_and_its_answer_is_read(server: SimpleNamespace) -> None:
    advisor = VLMAdvisor(server.url, "m", window=3)
    advisor.begin()
    env = make("push")
    observation, _ = env.reset(seed=1)
    shown = []
    for _ in range(5):
        shown.append({camera: observation.images[camera].copy() for camera in ("top", "robot")})
        advisor.see(observation)
        observation, *_ = env.step(np.array([1.0, 0.0, -1.0], np.float32))
    advice = advisor.advise()
    assert (advice.failing, advice.mode, advice.axis, advice.delta) == (1.0, "translation", "x", FAILING.delta)
    (asked,) = server.asked
    seen = pictures(asked)
    assert len(seen) == 6
    for got, wanted in zip(seen, [f[c] for c in ("top", "robot") for f in shown[-3:]], strict=True):
        np.testing.assert_array_equal(got, wanted)
    words = " ".join(part["text"] for part in asked["messages"][0]["content"] if part["type"] == "text")
    assert env.spec.instruction in words


def test_what_nobody_can_read_moves_nothing_and_is_counted(server: SimpleNamespace) -> None:
    advisor = VLMAdvisor(server.url, "m", window=2)
    advisor.begin()
    advisor.see(make("push").reset(seed=1)[0])
    for said in ("As a language model I cannot see.", "Sub-task: a. Failing: yes. Failure: b. Correction: [1, 2]."):
        server.says = said
        assert advisor.advise().failing == 0.0
    assert advisor.unread == 2
    server.says = Answer("near puck", False).text()
    assert advisor.advise().failing == 0.0
    assert advisor.unread == 2


def test_a_server_that_fails_ends_the_episode_not_the_run(server: SimpleNamespace, tmp_path) -> None:
    server.status = 500
    item = RolloutItem("tiny/push", 1, 1, "a", "random:3", recover=f"vlm:{server.url}#m")
    (meta,) = collect([item], tmp_path, workers=1, quiet=True)
    assert meta.outcome == "error"
    assert "does not answer" in meta.error and "\n" not in meta.error


def test_it_takes_over_in_rollouts(server: SimpleNamespace, tmp_path) -> None:
    options = TakeoverOptions(attempts=1)
    item = RolloutItem("tiny/push", 1, 1, "a", "random:3", recover=f"vlm:{server.url}#m", takeover=options)
    (meta,) = collect([item], tmp_path, workers=1, quiet=True)
    assert meta.extra["takeover"]["takeovers"] == [10]
    actors = EpisodeStore(tmp_path).read(meta.episode_id).actors()
    assert actors[10] == Actor.RECOVERY
    assert len(server.asked) == 1, "asked at the tenth step, and no more after its one attempt"


@pytest.mark.parametrize("spec", ["vlm:localhost:8000#m", "vlm:http://localhost:8000/v1", "vlm:"])
def test_addresses_without_server_or_model_are_told(spec: str) -> None:
    with pytest.raises(SetupError, match="write vlm:URL#MODEL"):
        load_takeover(spec, TakeoverOptions())


def test_nobody_is_asked_before_anything_was_seen(server: SimpleNamespace) -> None:
    advisor = VLMAdvisor(server.url, "m")
    advisor.begin()
    with pytest.raises(EpisodeError, match="before it saw a frame"):
        advisor.advise()
