"""The embedded default policy: a real, small VLA that trains in minutes on two cores."""

from failwise.policies.compact.config import CompactConfig
from failwise.policies.compact.policy import CompactContext, CompactVLA, Normaliser, weights_sha256

__all__ = ["CompactConfig", "CompactContext", "CompactVLA", "Normaliser", "weights_sha256"]
