"""Steering: what bends a generative policy's sampling: one loop with hooks for noise, prediction, choice."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from failwise.steer.afil import AFIL, AFILOptions, Divergence, measure_divergence
    from failwise.steer.best_of_n import BestOfN
    from failwise.steer.cfg import ClassifierFree
    from failwise.steer.chain import Chain
    from failwise.steer.composition import Composition, Ensemble
    from failwise.steer.gradient import GradientGuidance
    from failwise.steer.process import DiffusionProcess, FlowProcess, Process, ReversedTime, process_for
    from failwise.steer.sampler import Sampled, draw_noise, sample
    from failwise.steer.unsteered import Several, Unsteered

_HOME = {
    "AFIL": "afil",
    "AFILOptions": "afil",
    "BestOfN": "best_of_n",
    "Chain": "chain",
    "ClassifierFree": "cfg",
    "Composition": "composition",
    "DiffusionProcess": "process",
    "Divergence": "afil",
    "Ensemble": "composition",
    "FlowProcess": "process",
    "GradientGuidance": "gradient",
    "Process": "process",
    "ReversedTime": "process",
    "Sampled": "sampler",
    "Several": "unsteered",
    "Unsteered": "unsteered",
    "draw_noise": "sampler",
    "measure_divergence": "afil",
    "process_for": "process",
    "sample": "sampler",
}

__all__ = [
    "AFIL",
    "AFILOptions",
    "BestOfN",
    "Chain",
    "ClassifierFree",
    "Composition",
    "DiffusionProcess",
    "Divergence",
    "Ensemble",
    "FlowProcess",
    "GradientGuidance",
    "Process",
    "ReversedTime",
    "Sampled",
    "Several",
    "Unsteered",
    "draw_noise",
    "measure_divergence",
    "process_for",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"failwise.steer.{_HOME[name]}"), name)
    raise AttributeError(f"module 'failwise.steer' has no attribute {name!r}; it offers {', '.join(__all__)}")
