"""The proof: every arm on the same untouched test seeds, against the base and against each control."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failwise.improve.options import ImproveOptions
from failwise.seeds import TEST

if TYPE_CHECKING:
    from failwise.evaluate.records import Comparison
    from failwise.report import Section

SIDE = ("c1", "fixed", "adaptive")
MEANING = {
    "base": "the policy as it was given",
    "extra-N": "control: the base after as many further training steps on its demonstrations as N rounds took",
    "c2": "control: imitation of the policy's own successes, no failure used",
    "c1": "control: negative guidance by a head trained on successes, no failure used",
    "fixed": "AFIL with a constant strength",
    "adaptive": "AFIL with the strength following the heads' divergence",
    "gated": "AFIL with the strength following the risk of failure",
    "recovery": "imitation of own successes and of verified expert recoveries from own failures",
    "best-of": "the best of N chunks by a critic of successes and failures",
}


def prove(env_ids: Sequence[str], arms: Mapping[str, Path], out: Path, options: ImproveOptions) -> Path:
    """Run all arms on the test seeds, write ``proof/`` and its report, print the verdicts; returns the report.

    Args:
        env_ids: tasks.
        arms: name -> agent; "base" is the baseline, "improved-N" the agent of round N.
        out: the run folder.
        options: how many test seeds and workers.
    """
    from failwise.evaluate import compare, evaluate
    from failwise.evaluate.run import write_comparison
    from failwise.evaluate.verdict import figures, verdicts
    from failwise.report import write_report
    from failwise.store import EpisodeStore
    from failwise.tracking import summarise

    seeds = list(TEST.claim(options.test_seeds, options.test_offset))
    folder = out / "proof"
    named = {name: str(path) for name, path in arms.items()}
    # First the arms on which the claim rests, then those that explain it: a run that is stopped has the former.
    main = {name: path for name, path in named.items() if name not in SIDE}
    claim = {name: path for name, path in main.items() if name == "base" or name.startswith(("improved-", "extra-"))}
    evaluate(env_ids, claim, seeds, folder, workers=options.workers, baseline="base")
    evaluate(env_ids, main, seeds, folder, workers=options.workers, baseline="base")
    evaluate(env_ids, named, seeds[: options.side_seeds or None], folder, workers=options.workers, baseline="base")
    # All episodes of both calls: pairs are made where both arms have the seed.
    metas = EpisodeStore(folder / "episodes", create=False).metas()
    # The report tells in this order, and what was improved is what one wants to know.
    others = sorted((name for name in named if name != "base"), key=lambda name: not name.startswith("improved"))
    comparison = compare(metas, "base", arms=others)
    write_comparison(comparison, folder)
    summarise(figures(comparison))
    against = against_controls(folder)
    improved = [arm for arm in arms if arm.startswith("improved")]
    sentences = [s for s, one in zip(verdicts(comparison), comparison.against, strict=True) if one.arm in improved]
    sentences += [s for c in against.values() for s in verdicts(c)]
    page = write_report(folder, [_controls_section(sentences), *_round_sections(out, options.rounds)])
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    print(f"report: {page}", file=sys.stderr)
    return page


def against_controls(folder: Path) -> dict[str, Comparison]:
    """The improved agents and the guided arms against each control that was run; also written as JSON."""
    from failwise.evaluate import compare
    from failwise.store import EpisodeStore

    metas = EpisodeStore(folder / "episodes", create=False).metas()
    present = sorted({m.arm for m in metas} - {"base"})
    controls = [arm for arm in present if arm in ("c1", "c2") or arm.startswith("extra-")]
    out: dict[str, Comparison] = {}
    for control in controls:
        if others := [arm for arm in present if arm not in controls and _fair(arm, control)]:
            out[control] = compare(metas, control, arms=others)
            (folder / f"against_{control}.json").write_text(out[control].to_json(), encoding="utf-8")
    return out


def _fair(arm: str, control: str) -> bool:
    """Whether the arm trained no longer than the control: one that ran fewer rounds says nothing of later ones."""
    rounds = {name: int(name.rpartition("-")[2]) for name in (arm, control) if name.startswith(("improved-", "extra-"))}
    return rounds.get(arm, 1) <= rounds.get(control, 1)


def _controls_section(sentences: Sequence[str]) -> Section:
    from failwise.report import Section

    meaning = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in MEANING.items())
    said = "".join(f"<li>{escape(s)}</li>" for s in sentences)
    return Section("Against each control", f"<ul>{said}</ul><h3>What the arms are</h3><ul>{meaning}</ul>")


def _of_the_critic(notes: Mapping[str, Any]) -> str:
    """Its AUC, where it was trained."""
    return f", of the critic {notes['held_out_auc_critic']:.3f}" if "held_out_auc_critic" in notes else ""


def _round_sections(out: Path, rounds: int) -> list[Section]:
    from failwise.report import Section

    sections = []
    for number in range(1, rounds + 1):
        choice: dict[str, Any] = json.loads((out / f"round{number}" / "choice.json").read_text(encoding="utf-8"))
        rows = "".join(
            f"<tr><td>{escape(s['name'])}</td><td>{s['successes']} / {s['n']}</td>"
            f"<td>{100 * s['successes'] / max(1, s['n']):.0f}%</td></tr>"
            for s in choice["standings"]
        )
        got, critic = choice["collected"], choice["critic"]
        sections.append(
            Section(
                f"Round {number}: what was collected and chosen",
                f"<p>{got['episodes']} own episodes, {got['successes']} of them successes, "
                f"{got['verified_recoveries']} verified recoveries. Held-out AUC of the value model "
                f"{critic['held_out_auc_value']:.3f}{_of_the_critic(critic)}. Mean "
                f"divergence of the heads {choice['divergence']:.3f}. Chosen: <b>{escape(choice['chosen'])}</b>.</p>"
                + (f"<table><tr><th>candidate</th><th>validation</th><th>rate</th></tr>{rows}</table>" if rows else ""),
            )
        )
    return sections
