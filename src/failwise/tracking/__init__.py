"""How a run goes, told to TensorBoard, Weights & Biases or Trackio: whoever trains or runs episodes reports here."""

from failwise.tracking.reports import TRACKERS, Run, Tracker, report, summarise, tracked, within

__all__ = ["TRACKERS", "Run", "Tracker", "report", "summarise", "tracked", "within"]
