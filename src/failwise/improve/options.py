"""Options of the whole job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from failwise.errors import SetupError
from failwise.learn.options import AFILTraining, CriticOptions


@dataclass(frozen=True)
class ImproveOptions:
    """How much to collect, train, choose and prove."""

    episodes: int = 120
    """Own episodes a task and round."""
    rounds: int = 1
    """Rounds of collecting and learning; each begins with the agent that the last one chose."""
    demos: Path | None = None
    """Store of demonstrations to keep imitating; without it only the policy's own successes are imitated."""
    demos_per_task: int = 0
    """Use at most so many demonstrations a task; 0 uses all."""
    recoveries: Literal["none", "expert"] = "none"
    """"expert": also replay own failures to their onset, let the environment's expert recover, and imitate what
    succeeded. Only where there is an expert; everything else needs no one but the policy."""
    recovery_steps: int = 150
    """Steps that the expert gets for a recovery."""
    recoveries_per_failure: int = 2
    """Takeovers tried for each failure: one where the value fell most, the others at random steps of the episode."""
    recovery_backoff: int = 2
    """Further takeovers for a failure that no recovery mended, each at half the earliest step tried before."""
    look_every: int = 4
    """While collecting, also record a picture every so many steps: more samples for the same episodes."""
    validation_seeds: tuple[int, ...] = (5, 10, 15)
    """Seeds a task in each rung of successive halving; a rung keeps the better half of the candidates."""
    candidate: str = ""
    """Take this candidate without validation, for tasks that must not take part in any choice."""
    test_seeds: int = 100
    """Untouched seeds a task for the proof."""
    test_offset: int = 0
    """Skip so many seeds of the test range: seeds whose results were seen before a change are untouched no longer."""
    side_seeds: int = 0
    """Test seeds a task for c1, fixed and adaptive, on which no claim about the improved agent rests; 0: all."""
    proof: Literal["all", "short"] = "all"
    """Arms of the proof: all controls and guidance families, or only base, self-imitation and the improved agents."""
    samples: tuple[int, ...] = (8, 16)
    """N of the best-of-N candidates; with none of them the critic is not trained, only the value model."""
    guidance: tuple[float, ...] = (0.5, 1.0)
    """Strengths of the guidance candidates."""
    heads: AFILTraining = field(default_factory=AFILTraining)
    """Training of the success, failure and control heads."""
    critic: CriticOptions = field(default_factory=CriticOptions)
    """Training of value model and critic."""
    extra: Literal["none", "one_round", "all_rounds"] = "all_rounds"
    """Also train the control on the demonstrations alone, for as many further steps as one round or all rounds took
    (needs ``demos``)."""
    workers: int = 2
    """Processes that run episodes."""
    threads: int = 2
    """Threads that train."""

    @property
    def extra_rounds(self) -> int:
        """Rounds whose steps the control with extra training gets; 0 where it is not trained."""
        if self.demos is None or self.extra == "none":
            return 0
        return self.rounds if self.extra == "all_rounds" else 1

    def __post_init__(self) -> None:
        for name in ("episodes", "rounds", "test_seeds", "workers", "threads", "recoveries_per_failure"):
            if getattr(self, name) < 1:
                raise SetupError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.recovery_backoff < 0:
            raise SetupError(f"--recovery-backoff must not be negative, not {self.recovery_backoff}")
        if not self.validation_seeds or min(self.validation_seeds) < 1:
            raise SetupError("--validation-seeds must name at least one rung of at least 1 seed a task")
        if min(self.samples, default=2) < 2:
            raise SetupError("--samples must be at least 2 each: with 1 there is nothing to choose from")
