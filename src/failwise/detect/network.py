"""What detectors with a trained network share: standardised features, weights on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from failwise.detect.base import Arrays, Detector, Scaler

Network = TypeVar("Network", bound=nn.Module)


class NetworkDetector(Detector, Generic[Network]):
    """Keeps a scaler and a network; a subclass builds, trains and reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = Scaler()
        self.network: Network | None = None

    @abstractmethod
    def _build(self, width: int) -> Network:
        """The untrained network for features of this width."""

    def _arrays(self) -> Arrays:
        assert self.network is not None, "fit or load it first"
        weights = {f"network.{k}": v.numpy() for k, v in self.network.state_dict().items()}
        return {**weights, **self.scaler.arrays()}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scaler.restore(arrays)
        network = self._build(len(self.scaler.mean))
        weights = {k[8:]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k.startswith("network.")}
        network.load_state_dict(weights)
        self.network = network.eval()
