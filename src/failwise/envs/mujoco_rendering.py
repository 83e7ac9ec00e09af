"""A fast off-screen renderer for MuJoCo models, for every simulator that is built on MuJoCo.

``mujoco.Renderer`` owns one GL context each and frees it before its model's GL objects: closing one renderer then
damages the pictures of the next. Here one GL context serves the whole process, and objects are freed while it is
current. Multi-sampling, shadows and reflections are off: that is 20 times faster in software, at the same geometry.
"""

from __future__ import annotations

import os
from typing import Any

import mujoco
import numpy as np
from mujoco import gl_context
from numpy.typing import NDArray

from failwise.envs.rendering_backend import ORDER_REMEDY
from failwise.errors import MissingDependencyError

MAX_SIDE = 512
_context: Any = None


def _shared_context() -> Any:
    global _context
    if _context is None:
        if gl_context.GLContext is None:
            raise MissingDependencyError(
                f"MuJoCo found no way to render with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}; "
                "install one with: apt-get install libegl1 libosmesa6, and leave MUJOCO_GL unset"
            )
        try:
            _context = gl_context.GLContext(MAX_SIDE, MAX_SIDE)
        except Exception as error:  # every platform raises its own kind
            raise MissingDependencyError(
                f"MuJoCo cannot open an off-screen {os.environ.get('MUJOCO_GL', '')} context ({error}); "
                "install the libraries with: apt-get install libegl1 libosmesa6, or set MUJOCO_GL=osmesa"
            ) from error
    _context.make_current()
    return _context


def _drawing_context(model: mujoco.MjModel) -> Any:
    try:
        return mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
    except mujoco.FatalError as error:  # a context of GLFW without a screen opens, and turns out to be none
        chosen = gl_context.GLContext.__module__.rpartition(".")[2]
        raise MissingDependencyError(
            f"MuJoCo cannot render with {chosen}, which it chose when it was imported with "
            f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}: {ORDER_REMEDY}"
        ) from error


class FastRenderer:
    """Renders the cameras of one model at one size.

    Args:
        model: the MuJoCo model; its render quality settings are lowered in place.
        height, width: pixels, at most 512.
        hidden_groups: groups of geometries that are not drawn, for instance collision shapes.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int, hidden_groups: tuple[int, ...] = ()) -> None:
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"images are limited to {MAX_SIDE} pixels a side, not {height}x{width}")
        _shared_context()
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(model=model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._mjr: Any = _drawing_context(model)

    def render(self, data: mujoco.MjData, camera_id: int, upside_down: bool = False) -> NDArray[np.uint8]:
        """One picture, uint8 (height, width, 3), row 0 at the top.

        ``upside_down`` is for cameras that are mounted so: their picture is turned over top to bottom.
        """
        if self._mjr is None:
            raise RuntimeError("the renderer is closed")
        _shared_context()
        self._camera.fixedcamid = camera_id
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        pixels = np.empty((self._rect.height, self._rect.width, 3), np.uint8)
        # Every time: another model's renderer may have read last, and then its picture would be read once more here.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        mujoco.mjr_render(self._rect, self._scene, self._mjr)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._mjr)
        # OpenGL's first row is the bottom one; an upside-down camera is therefore already upright.
        return pixels if upside_down else np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Free the GL objects of this model."""
        if self._mjr is not None and _context is not None:
            _context.make_current()
            self._mjr.free()
        self._mjr = None
