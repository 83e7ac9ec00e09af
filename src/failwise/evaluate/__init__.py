"""Evaluation: arms on the same tasks and seeds, exact intervals and tests, and a verdict in plain words."""

# Not lazy: nothing here loads torch before ``evaluate`` is called, and the functions ``compare`` and
# ``verdict`` must be bound after the modules of the same name have been imported.
from failwise.evaluate.compare import compare, describe
from failwise.evaluate.records import (
    ArmComparison,
    ArmResult,
    Comparison,
    PairedResult,
    SeedPairs,
    TaskResult,
    Unpaired,
)
from failwise.evaluate.run import COMPARISON_FILE, EPISODES_FOLDER, evaluate, was_stopped_early, write_comparison
from failwise.evaluate.statistics import Interval
from failwise.evaluate.verdict import Finding, finding, verdict, verdicts

__all__ = [
    "COMPARISON_FILE",
    "EPISODES_FOLDER",
    "ArmComparison",
    "ArmResult",
    "Comparison",
    "Finding",
    "Interval",
    "PairedResult",
    "SeedPairs",
    "TaskResult",
    "Unpaired",
    "compare",
    "describe",
    "evaluate",
    "finding",
    "verdict",
    "verdicts",
    "was_stopped_early",
    "write_comparison",
]
