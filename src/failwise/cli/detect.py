"""``failwise detect``: fit a detector with its bands, score episodes with it, or compare all detectors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failwise.cli.options import Actions, existing_folder, parse, run_action, writable_folder
from failwise.errors import SetupError, UnknownNameError

if TYPE_CHECKING:
    from failwise.detect import Costs, Monitor, Trace

EPISODES = "episodes that 'failwise collect' wrote"
USE = "off-course"


@dataclass(frozen=True)
class Fit:
    """Fit a detector on recorded episodes, and calibrate its bands on successes that it was not fitted on."""

    episodes: Path
    """Folder of recorded episodes of one policy."""
    out: Path
    """Folder for the detector."""
    detector: str = "safe-lstm"
    """Which one: failwise list detectors."""
    options: str = "{}"
    """Its options as JSON, for example '{"hidden": 128}'."""
    alpha: float = 0.1
    """Largest rate of false alarms, over episodes that will succeed."""
    band: str = "functional"
    """functional: follows the scores of successes over time. constant: one threshold."""
    costs: str = ""
    """Learn thresholds and reactions from what goes wrong costs, as JSON: '{"missed": 1, "false_stop": 0.5,
    "ask": 0.2}'. Then a half of the episodes that calibrate, and of the failures, learn them."""
    per_task: bool = True
    """Also a band of its own for every task that has enough successes for one."""
    calibration: float = 0.4
    """Share of the successes that calibrate; the others, and all failures, fit the detector."""
    features: str = ""
    """Which of the recorded features it reads, for example expert-mean; without it all."""
    demos: Path | None = None
    """Demonstrations that the policy was trained on, of all its tasks, for detectors that use them; with --policy."""
    policy: Path | None = None
    """The policy, to look at the demonstrations."""
    seed: int = 0
    """Of the split and of the fit."""


@dataclass(frozen=True)
class Score:
    """Score recorded episodes with a detector: score, band and alarm of every step, as JSON lines."""

    episodes: Path
    """Folder of recorded episodes of the policy that the detector was fitted on."""
    detector: Path
    """Folder that 'failwise detect fit' wrote."""
    out: Path | None = None
    """File for one JSON line an episode with all steps; without it, a table only."""
    page: Path | None = None
    """Also an HTML page with the curves of telling episodes."""
    videos: Path | None = None
    """Also a folder with a video of each of these, the curve drawn in."""


@dataclass(frozen=True)
class Bench:
    """Compare all detectors on recorded episodes: fitted on some tasks, judged on others. The same command resumes."""

    episodes: Path
    """Folder of recorded episodes of one policy, on at least two tasks a fold."""
    out: Path
    """Folder for detect.json and the picture."""
    detectors: str = ""
    """Which ones, with commas; without it all that these episodes have what they need for."""
    folds: int = 3
    """Folds of tasks; each task is unseen in one of them."""
    alpha: float = 0.1
    """Rate of false alarms of the bands."""
    features: str = ""
    """Which of the recorded features detectors read, for example expert-mean; without it all."""
    demos: Path | None = None
    """Demonstrations that the policy was trained on, of all its tasks, for detectors that use them; with --policy."""
    policy: Path | None = None
    """The policy, to look at the demonstrations."""
    seed: int = 0
    """Of folds, fits and intervals."""


def fit(argv: Sequence[str]) -> int:
    """Fit and calibrate; print what the band promises."""
    import numpy as np

    from failwise.detect import calibrate, calibrate_by_cost, load_traces, make_detector

    asked = parse(Fit, argv, "detect fit")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    if not 0 < asked.calibration < 1:
        raise SetupError(f"--calibration {asked.calibration} must lie between 0 and 1")
    detector = make_detector(asked.detector, **_options(asked.options, "--options"))
    costs = _costs(asked.costs) if asked.costs else None
    if costs is not None and (asked.band != Fit.band or not asked.per_task):
        raise SetupError("--costs learns one threshold a phase for all tasks: leave --band and --no-per-task out")
    _demonstrations_given(asked)
    if asked.demos is not None and not detector.uses_demonstrations:
        raise SetupError(
            f"detector {asked.detector!r} does not use demonstrations; leave --demos out, or ask for {USE}"
        )
    writable_folder(asked.out)
    traces = load_traces(asked.episodes, features=asked.features)
    demonstrations = _demonstrations(asked, traces)
    wins = [t for t in traces if not t.failed]
    order = np.random.default_rng(asked.seed).permutation(len(wins))
    held = {wins[i].meta.episode_id for i in order[: round(asked.calibration * len(wins))]}
    calibration = [t for t in wins if t.meta.episode_id in held]
    rest = [t for t in traces if t.meta.episode_id not in held]
    tuning: list[Trace] = []
    if costs is not None:
        calibration, tuning, rest = _for_costs(calibration, rest, asked.seed)
    detector.fit(rest, seed=asked.seed, demonstrations=demonstrations)
    if costs is None:
        monitor = calibrate(
            detector, calibration, asked.alpha, kind=asked.band, per_task=asked.per_task, seed=asked.seed
        )
    else:
        monitor, spending = calibrate_by_cost(detector, tuning, calibration, asked.alpha, costs, seed=asked.seed)
        for start, share, reaction in zip(spending.starts, spending.alphas, spending.responses, strict=True):
            print(f"from step {start}: {reaction} at a rate of false alarms of at most {share:.0%}")
        print(
            f"cost an episode, cross-validated: {spending.cost:.3f}; without any alarm {spending.cost_of_none:.3f}, "
            f"stopping with alpha spent evenly {spending.cost_of_fixed:.3f}"
        )
    monitor.save(asked.out)
    for task, band in monitor.bands.items():
        print(
            f"{task or 'all tasks'}: at most {band.alpha:.0%} of the successes raise an alarm, "
            f"from {band.n} calibration successes (and {band.n_mean} for the band's shape)"
        )
    print(asked.out)
    return 0


def score(argv: Sequence[str]) -> int:
    """Score episodes; print a table, write JSON lines."""
    from rich.console import Console
    from rich.table import Table

    from failwise.detect import load_monitor, load_traces
    from failwise.detect.trace import checkpoint

    asked = parse(Score, argv, "detect score")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    traces = load_traces(asked.episodes)
    monitor = load_monitor(asked.detector, checkpoint(traces[0].meta))
    traces = [t.only(monitor.detector.pooling) for t in traces]
    table = Table("episode", "outcome", "steps", "largest score", "alarm at step", "of the episode")
    lines = []
    for t in traces:
        monitor.reset(t.meta.env_id)
        verdicts = [monitor.update(moment) for moment in t.moments()]
        at = monitor.alarmed_at
        share = "" if at is None else f"{(at + 1) / len(t):.0%}"
        largest = max(v.score for v in verdicts)
        table.add_row(
            t.meta.episode_id, t.meta.outcome, str(len(t)), f"{largest:.3f}", "" if at is None else str(at), share
        )
        lines.append(
            {
                "episode": t.meta.episode_id,
                "outcome": t.meta.outcome.value,
                "alarm_step": at,
                "scores": [round(v.score, 6) for v in verdicts],
                "band": [round(v.band, 6) if math.isfinite(v.band) else None for v in verdicts],
            }
        )
    if asked.out is not None:
        writable_folder(asked.out.parent)
        asked.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    Console().print(table)
    if asked.page is not None or asked.videos is not None:
        _show(asked, monitor, traces)
    return 0


def _show(asked: Score, monitor: Monitor, traces: Sequence[Trace]) -> None:
    """The page and the videos."""
    from failwise.report.page import picture_html, write_page
    from failwise.report.scored import draw_episode, draw_video, scored_by
    from failwise.report.section import Section
    from failwise.report.watched import telling
    from failwise.store import EpisodeStore

    store = EpisodeStore(asked.episodes, create=False)
    scored = [scored_by(monitor, store.read(t.meta.episode_id), t) for t in traces]
    shown = telling(scored)
    if asked.page is not None:
        writable_folder(asked.page.parent, "--page")
        pictures = "".join(picture_html(draw_episode(one), one.title) for one in shown)
        lost, won = (
            [one for one in scored if (one.episode.meta.outcome != "success") == failed] for failed in (True, False)
        )
        counts = {
            "failures with an alarm": f"{sum(one.alarm is not None for one in lost)} of {len(lost)}",
            "successes with an alarm": f"{sum(one.alarm is not None for one in won)} of {len(won)}",
        }
        delays = [one.delay / one.episode.meta.control_hz for one in lost if one.delay is not None]
        if delays:
            counts["mean delay after a known onset"] = f"{sum(delays) / len(delays):.2f} s"
        claim = f"{monitor.detector.name}, at most {monitor.band.alpha:.0%} of the successes may raise an alarm."
        page = write_page(
            asked.page, "Scored episodes", [(claim, str(asked.episodes))], counts,
            [Section("Some of each kind", pictures)],
        )  # fmt: skip
        print(page)
    if asked.videos is not None:
        writable_folder(asked.videos, "--videos")
        for one in shown:
            if one.episode.meta.n_frames:
                print(draw_video(one, asked.videos / f"{one.episode.id}.mp4"))


def bench(argv: Sequence[str]) -> int:
    """Compare; write detect.json and the picture."""
    from failwise import registry
    from failwise.detect import load_traces
    from failwise.evaluate.detector_bench import BenchOptions, usable
    from failwise.evaluate.detector_bench import bench as run
    from failwise.report.detection import draw, table, write_bench_page

    asked = parse(Bench, argv, "detect bench")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    known = registry.names("detector")
    named = [name.strip() for name in asked.detectors.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise UnknownNameError("detector", name, known)
    _demonstrations_given(asked)
    writable_folder(asked.out)
    traces = load_traces(asked.episodes, features=asked.features)
    names = named or usable(traces, known)
    options = BenchOptions(folds=asked.folds, alpha=asked.alpha, seed=asked.seed)
    demonstrations = _demonstrations(asked, traces)
    results = run(traces, names, options, demonstrations=demonstrations, scratch=asked.out / "detectors")
    (asked.out / "detect.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture = draw(results, asked.out / "detect.png")
    table(results)
    print(asked.out / "detect.json")
    print(write_bench_page(results, picture, asked.out / "detect.html"))
    return 0


ACTIONS: Actions = {
    "fit": ("a detector and its bands, from recorded episodes", fit),
    "score": ("scores and alarms of recorded episodes", score),
    "bench": ("every detector on the same episodes: one table, one picture", bench),
}


def main(argv: Sequence[str]) -> int:
    """Run one action."""
    return run_action("detect", ACTIONS, argv)


def _demonstrations_given(asked: Fit | Bench) -> None:
    """Refuse one of --demos and --policy without the other, and folders that are none."""
    if (asked.demos is None) != (asked.policy is None):
        raise SetupError(
            "--demos and --policy go together: the policy looks at the demonstrations that it was trained on"
        )
    if asked.demos is not None and asked.policy is not None:
        existing_folder(asked.demos, "--demos", "demonstrations that 'failwise collect --policy expert' wrote")
        existing_folder(asked.policy, "--policy", "the policy that acted in the episodes")


def _demonstrations(asked: Fit | Bench, traces: Sequence[Trace]) -> list[Trace]:
    """The demonstrations with the features of the episodes, kept beside what is made here; none where none are given.

    Raises:
        SetupError: another policy than the one that acted.
    """
    if asked.demos is None or asked.policy is None:
        return []
    from failwise.detect.trace import checkpoint
    from failwise.learn.demonstrations import demonstration_traces
    from failwise.policies.compact.policy import weights_sha256

    if (acted := checkpoint(traces[0].meta)) != (given := weights_sha256(asked.policy)):
        raise SetupError(
            f"--policy {asked.policy} is checkpoint {given[:12] or '?'}, the episodes are of {acted[:12] or '?'}: "
            "its features mean nothing there"
        )
    cache = asked.out / "demonstrations.safetensors"
    return demonstration_traces(asked.demos, asked.policy, traces[0].pooling, cache=cache)


def _for_costs(
    calibration: Sequence[Trace], rest: Sequence[Trace], seed: int
) -> tuple[list[Trace], list[Trace], list[Trace]]:
    """Half of the held-out successes to calibrate, the other half and a third of the failures to learn from."""
    import numpy as np

    lost = [t for t in rest if t.failed]
    order = np.random.default_rng(seed).permutation(len(lost))
    chosen = {lost[i].meta.episode_id for i in order[: round(len(lost) / 3)]}
    tuning = [*calibration[1::2], *(t for t in lost if t.meta.episode_id in chosen)]
    return list(calibration[::2]), tuning, [t for t in rest if t.meta.episode_id not in chosen]


def _costs(text: str) -> Costs:
    from failwise.detect import Costs

    try:
        return Costs(**_options(text, "--costs"))
    except TypeError as error:
        raise SetupError(f"--costs {text!r}: {error}; costs are missed, false_stop, ask and late") from error


def _options(text: str, option: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise SetupError(f"{option} {text!r} is not JSON ({error})") from error
    if not isinstance(options, dict):
        raise SetupError(f"{option} must be a JSON object, not {text!r}")
    return options
