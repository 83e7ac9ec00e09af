"""What notices that an episode is failing: causal detectors on what the policy computes anyway, and conformal bands."""

from failwise.detect.base import Detector, score_recorded, score_trace
from failwise.detect.conformal import (
    Band,
    Shift,
    conformal_quantile,
    constant_band,
    functional_band,
    smallest_n,
    weighted_quantile,
)
from failwise.detect.load import load_detector, load_monitor, make_detector
from failwise.detect.monitor import Monitor, calibrate, calibrate_by_cost, check_calibration
from failwise.detect.shift import shift_towards
from failwise.detect.thresholds import Costs, Spending
from failwise.detect.trace import Moment, Trace, load_traces

__all__ = [
    "Band",
    "Costs",
    "Detector",
    "Moment",
    "Monitor",
    "Shift",
    "Spending",
    "Trace",
    "calibrate",
    "calibrate_by_cost",
    "check_calibration",
    "conformal_quantile",
    "constant_band",
    "functional_band",
    "load_detector",
    "load_monitor",
    "load_traces",
    "make_detector",
    "score_recorded",
    "score_trace",
    "shift_towards",
    "smallest_n",
    "weighted_quantile",
]
