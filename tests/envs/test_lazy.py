"""Pictures render when somebody looks, once, and never late."""

import numpy as np
import pytest

from failwise.envs import LazyImages, StaleObservationError


class Scene:
    """Counts renderings; its moment moves on."""

    def __init__(self) -> None:
        self.now, self.rendered = 0, []

    def observe(self) -> LazyImages:
        moment = self.now
        return LazyImages(("top", "hand"), self.render, lambda: self.now == moment)

    def render(self, camera: str) -> np.ndarray:
        self.rendered.append(camera)
        return np.full((2, 2, 3), self.now, np.uint8)


def test_only_what_is_looked_at_renders_and_only_once() -> None:
    scene = Scene()
    images = scene.observe()
    assert list(images) == ["top", "hand"] and len(images) == 2 and "top" in images and "left" not in images
    assert "hand (unseen)" in repr(images)
    assert scene.rendered == []
    assert images["hand"] is images["hand"]
    assert scene.rendered == ["hand"]
    assert set(dict(images)) == {"top", "hand"}
    assert scene.rendered == ["hand", "top"]


def test_what_was_seen_stays_and_what_was_not_is_stale() -> None:
    scene = Scene()
    images = scene.observe()
    before = images["top"]
    scene.now = 1
    assert images["top"] is before
    with pytest.raises(StaleObservationError, match=r"'hand'.*look .* before the next step"):
        images["hand"]
    assert scene.rendered == ["top"]


def test_an_unknown_camera_is_a_key_error_that_lists_the_known() -> None:
    with pytest.raises(KeyError, match="top, hand"):
        Scene().observe()["left"]
    assert Scene().observe().get("left") is None
