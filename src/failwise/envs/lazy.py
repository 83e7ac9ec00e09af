"""Pictures that render when somebody looks, and never show a later moment than their observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from failwise.errors import FailwiseError


class StaleObservationError(FailwiseError):
    """A picture of an observation was asked for after its environment had moved on."""


class LazyImages(Mapping[str, NDArray[np.uint8]]):
    """Camera name -> uint8 (h, w, 3), rendered on first access and kept from then on.

    An unwatched step costs no rendering. Names, length and membership never render.

    Args:
        cameras: the names, in order.
        render: draws one camera as the environment is now.
        is_current: whether the environment is still at the moment of the observation that these belong to.

    Raises:
        KeyError: on access, no such camera.
        StaleObservationError: on access, the picture was not rendered before the environment moved on.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        render: Callable[[str], NDArray[np.uint8]],
        is_current: Callable[[], bool],
    ) -> None:
        self._cameras, self._render, self._is_current = tuple(cameras), render, is_current
        self._seen: dict[str, NDArray[np.uint8]] = {}

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        if camera not in self._seen:
            if camera not in self._cameras:
                raise KeyError(f"no camera {camera!r}; there are: {', '.join(self._cameras) or 'none'}")
            if not self._is_current():
                raise StaleObservationError(
                    f"camera {camera!r} of an earlier observation was not rendered before the environment moved on; "
                    "look (images[camera], or dict(images)) before the next step, reset or restore"
                )
            self._seen[camera] = self._render(camera)
        return self._seen[camera]

    # Mapping's own answers by way of __getitem__, which would render.
    def __contains__(self, camera: object) -> bool:
        return camera in self._cameras

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)

    def __repr__(self) -> str:
        return f"LazyImages({', '.join(c + ('' if c in self._seen else ' (unseen)') for c in self._cameras)})"
