"""The same moment by several ways, for the tests of each simulator."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_first_image_is_its_own(env: Any, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Right after reset, after a restore of that moment, and computed anew: the same images and proprioception."""
    for seed in seeds:
        for way, again in (("recompute", lambda: env.recompute()), ("restore", lambda: env.restore(env.snapshot()))):
            first, _ = env.reset(seed=seed)
            shown, state = {camera: first.images[camera].copy() for camera in env.spec.cameras}, first.state.copy()
            other = again()
            for camera, image in shown.items():
                differing = int((other.images[camera] != image).any(-1).sum())
                assert differing == 0, f"{env.spec.env_id} seed {seed}, {way}: {differing} pixels of {camera} differ"
            np.testing.assert_allclose(other.state, state, atol=1e-6, err_msg=f"{env.spec.env_id} {seed} {way}")
