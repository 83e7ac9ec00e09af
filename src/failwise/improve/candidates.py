"""What one round offers to choose from: ways of steering the newly trained heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Steering = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """A way of steering. ``control`` marks what only serves comparison and is never chosen."""

    name: str
    steering: Steering
    control: bool = False

    def write(self, folder: Path, network: Path, critic: Path | None, kind: tuple[str, str] = ("", "")) -> Path:
        """An agent folder that refers to the round's network and critic beside it.

        ``kind``: of a policy that is read by its kind's own rules, with what stands behind its folder after a "?".
        """
        import os

        from failwise.agent import FORMAT

        folder.mkdir(parents=True, exist_ok=True)
        named, query = (f"{kind[0]}:" if kind[0] else ""), (f"?{kind[1]}" if kind[1] else "")
        about: dict[str, Any] = {"format": FORMAT, "policy": f"{named}{os.path.relpath(network, folder)}{query}"}
        about["steering"] = [dict(s) for s in self.steering]
        if critic is not None:
            about["critic"] = os.path.relpath(critic, folder)
        (folder / "agent.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return folder


EVERY = 2
"""Candidates evaluate the failure head at every other denoising step. On a trained policy the chunks then differ from
those of guidance at every step by .15 of what guidance does (cosine .98), and guidance costs .2 of a chunk, not .3."""


def afil(**options: Any) -> dict[str, Any]:
    """One AFIL entry of a steering list."""
    return {"name": "afil", "options": {"every": EVERY, **options}}


def best_of(samples: int, margin: float = 0.0) -> dict[str, Any]:
    """One best-of-N entry of a steering list."""
    return {"name": "best_of_n", "options": {"samples": samples, "margin": margin}}


def ladder(divergence: float, guidance: Sequence[float], samples: Sequence[int]) -> list[Candidate]:
    """The candidates and controls of a round.

    Args:
        divergence: mean 1 - cos between the heads in a dry run; adaptive schedules are scaled by it, so that a
            strength means the same for every pair of heads.
        guidance: strengths of the guided ones.
        samples: N of the selecting ones.
    """
    scale = max(divergence, 1e-3)
    middle = sorted(guidance)[len(guidance) // 2]
    adaptive = {"schedule": "cosine", "scale": scale}
    gated = {"schedule": "constant", "gate": "risk", "power": 2.0}
    out = [Candidate("c2", [])]
    out += [Candidate(f"fixed-{w:g}", [afil(schedule="constant", alpha=w)]) for w in sorted(guidance)[:2]]
    out += [Candidate(f"adaptive-{w:g}", [afil(alpha=w, **adaptive)]) for w in sorted(guidance)[:2]]
    out += [Candidate(f"gated-{w:g}", [afil(alpha=w, **gated)]) for w in guidance]
    out += [Candidate(f"best-of-{n}", [best_of(n)]) for n in samples]
    if samples:
        both = [afil(alpha=middle, **gated), best_of(max(samples))]
        out += [Candidate(f"gated-{middle:g}-best-of-{max(samples)}", both)]
    return [*out, _c1(middle)]


def recovery_ladder(guidance: Sequence[float]) -> list[Candidate]:
    """The candidates on the network that also learned recoveries: plain, and guided where the risk is high.

    Its value model is fitted, its critic is not, so none of them selects among chunks.
    """
    strongest = afil(alpha=max(guidance), schedule="constant", gate="risk", power=2.0)
    return [Candidate("recovery", []), Candidate("recovery-gated", [strongest])]


def _c1(strength: float) -> Candidate:
    return Candidate("c1", [afil(schedule="constant", alpha=strength, failure="own_success")], control=True)


def proof_arms(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> dict[str, str]:
    """Arm name -> candidate name for the published comparison: of each family the one that validation liked best."""
    arms = {name: name for name in ("c2", "c1") if any(c.name == name for c in candidates)}
    for family in ("fixed", "adaptive", "gated", "recovery"):
        members = [
            c.name for c in candidates if c.name.startswith(family) and (family == "recovery" or "best" not in c.name)
        ]
        if members:
            arms[family] = max(members, key=lambda name: scores.get(name, -1.0))
    return arms
