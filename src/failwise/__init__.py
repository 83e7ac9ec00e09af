"""Failwise makes robot policies wise from their failures.

The public names below load on first use: ``import failwise`` itself loads no torch and no simulator. The two verbs
that share their name with a room are called there: ``failwise.evaluate.evaluate`` and ``failwise.improve.improve``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Observation": "failwise.types",
    "ActionChunk": "failwise.types",
    "StepRecord": "failwise.types",
    "EpisodeMeta": "failwise.types",
    "FailureEvent": "failwise.types",
    "Diagnosis": "failwise.types",
    "Outcome": "failwise.types",
    "FailwiseError": "failwise.errors",
    "EpisodeStore": "failwise.store",
    "make_env": "failwise.envs",
    "load_policy": "failwise.policies",
    "load_agent": "failwise.agent",
    "sample": "failwise.steer",
    "collect": "failwise.rollout",
    "compare": "failwise.evaluate",
    "ImproveOptions": "failwise.improve",
    "write_report": "failwise.report",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'failwise' has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")


def __dir__() -> list[str]:
    return sorted(__all__)
