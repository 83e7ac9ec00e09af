"""``failwise detect``: fit a detector with its bands, score episodes with it, or compare all detectors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failwise.cli.options import Actions, existing_folder, parse, run_action, writable_folder
from failwise.cli.tables import print_table
from failwise.errors import SetupError, UnknownNameError

if TYPE_CHECKING:
    from failwise.detect import Costs, Shift, Trace

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
    per_task: bool = False
    """Also a band of its own for every task that has enough successes for one; the band of the other tasks then rests
    on theirs alone, if they are enough."""
    towards: Path | None = None
    """Episodes like those that it will watch, if these are others, of any outcome: successes that begin like them count
    more for the band. The bound then holds there as far as the likeness can be estimated."""
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

    from failwise.detect import calibrate, calibrate_by_cost, check_calibration, make_detector, shift_towards

    asked = parse(Fit, argv, "detect fit")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    if not 0 < asked.calibration < 1:
        raise SetupError(f"--calibration {asked.calibration} must lie between 0 and 1")
    detector = make_detector(asked.detector, **_options(asked.options, "--options"))
    costs = _costs(asked.costs) if asked.costs else None
    if costs is not None and (asked.band != Fit.band or asked.per_task):
        raise SetupError("--costs learns one threshold a phase for all tasks: leave --band and --per-task out")
    if asked.towards is not None:
        existing_folder(asked.towards, "--towards", EPISODES)
        if asked.per_task or asked.costs:
            raise SetupError("--towards is for one band of all tasks: leave --per-task and --costs out")
    _demonstrations_given(asked)
    if asked.demos is not None and not detector.uses_demonstrations:
        raise SetupError(
            f"detector {asked.detector!r} does not use demonstrations; leave --demos out, or ask for {USE}"
        )
    check_calibration(10**9, asked.alpha, asked.band)  # the two options, before episodes are read
    writable_folder(asked.out)
    traces = _unwatched(asked.episodes, asked.features)
    _same_policy(asked, traces)
    layouts = sorted({(t.meta.env_id, t.meta.env_seed) for t in traces if not t.failed})
    order = np.random.default_rng(asked.seed).permutation(len(layouts))
    held = {layouts[i] for i in order[: round(asked.calibration * len(layouts))]}
    # Of a layout, everything on one side: who was fitted on one episode of it knows the others.
    calibration = [t for t in traces if (t.meta.env_id, t.meta.env_seed) in held and not t.failed]
    rest = [t for t in traces if (t.meta.env_id, t.meta.env_seed) not in held]
    if costs is None:
        check_calibration(len(calibration), asked.alpha, asked.band)
    if asked.demos is None:
        detector.check(rest)  # before the others are read; with demonstrations ``fit`` asks
    demonstrations = _demonstrations(asked, traces)
    shift: Shift | None = None
    tuning: list[Trace] = []
    if asked.towards is not None:
        alike = _unwatched(asked.towards, asked.features)
        shift = shift_towards(calibration, alike, seed=asked.seed)
        print(f"{len(calibration)} calibration successes count as {shift.effective} that are like {asked.towards}")
    if costs is not None:
        calibration, tuning, rest = _for_costs(calibration, rest, asked.seed)
    detector.fit(rest, seed=asked.seed, demonstrations=demonstrations)
    if costs is None:
        monitor = calibrate(
            detector, calibration, asked.alpha, kind=asked.band, per_task=asked.per_task, seed=asked.seed, shift=shift
        )
    else:
        monitor, spending = calibrate_by_cost(detector, tuning, calibration, asked.alpha, costs, seed=asked.seed)
        for start, share, reaction in zip(spending.starts, spending.alphas, spending.responses, strict=True):
            print(f"from step {start}: {reaction} at a rate of false alarms of at most {100 * share:g}%")
        print(
            f"cost an episode, cross-validated: {spending.cost:.3f}; without any alarm {spending.cost_of_none:.3f}, "
            f"stopping with alpha spent evenly {spending.cost_of_fixed:.3f}"
        )
    monitor.save(asked.out)
    own = set(monitor.bands) - {""}
    others = sum(t.meta.env_id not in own for t in calibration)
    for task, band in monitor.bands.items():
        said = f"at most {100 * band.alpha:g}% of the successes raise an alarm"
        if not task and own and band.n + band.n_mean > others:
            said = f"no bound of their own, as {others} successes are too few: the band of all tasks"
        print(
            f"{task or ('other tasks' if own else 'all tasks')}: {said}, "
            f"from {band.n} calibration successes (and {band.n_mean} for the band's shape)"
        )
    print(asked.out)
    return 0


def score(argv: Sequence[str]) -> int:
    """Score episodes; print a table, write JSON lines."""
    from rich.table import Table

    from failwise.detect import load_monitor, load_traces
    from failwise.detect.trace import checkpoint, known_onset

    asked = parse(Score, argv, "detect score")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    for option, file in (("--out", asked.out), ("--page", asked.page)):
        if file is not None and file.is_dir():
            raise SetupError(f"{option} {file} is a folder; name a file in it")
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
        largest, onset = max(v.score for v in verdicts), known_onset(t.meta)
        table.add_row(
            t.meta.episode_id, t.meta.outcome, str(len(t)), f"{largest:.3f}", "" if at is None else str(at), share
        )
        lines.append(
            {
                "episode": t.meta.episode_id,
                "outcome": t.meta.outcome.value,
                "alarm_step": at,
                "onset_step": onset,
                "delay_steps": None if at is None or onset is None else at - onset,
                "scores": [round(v.score, 6) for v in verdicts],
                "band": [round(v.band, 6) if math.isfinite(v.band) else None for v in verdicts],
            }
        )
    if asked.out is not None:
        writable_folder(asked.out.parent)
        asked.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print_table(table)
    if asked.page is not None or asked.videos is not None:
        from failwise.report.scored_page import scored_episodes, write_scored_page, write_scored_videos

        scored = scored_episodes(asked.episodes, monitor, traces)
        if asked.page is not None:
            writable_folder(asked.page.parent, "--page")
            print(write_scored_page(asked.page, monitor, scored, str(asked.episodes)))
        if asked.videos is not None:
            writable_folder(asked.videos, "--videos")
            for video in write_scored_videos(asked.videos, scored):
                print(video)
    return 0


def bench(argv: Sequence[str]) -> int:
    """Compare; write detect.json and the picture."""
    from failwise import registry
    from failwise.detect.conformal import smallest_n
    from failwise.evaluate.detector_bench import BenchOptions, usable, with_null
    from failwise.evaluate.detector_bench import bench as run
    from failwise.report.detection import draw, table, write_bench_page

    asked = parse(Bench, argv, "detect bench")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    known = registry.names("detector")
    named = [name.strip() for name in asked.detectors.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise UnknownNameError("detector", name, known)
    smallest_n(asked.alpha)  # refuses what is no rate
    _demonstrations_given(asked)
    writable_folder(asked.out)
    traces = _unwatched(asked.episodes, asked.features)
    _same_policy(asked, traces)
    names = named or usable(traces, known)
    options = BenchOptions(folds=asked.folds, alpha=asked.alpha, seed=asked.seed)
    demonstrations = _demonstrations(asked, traces)
    results = run(traces, names, options, demonstrations=demonstrations, scratch=asked.out / "detectors")
    (asked.out / "detect.json").write_text(
        json.dumps(with_null(results), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    picture = draw(results, asked.out / "detect.png")
    print_table(table(results))
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


def _unwatched(folder: Path, features: str) -> list[Trace]:
    """The episodes that no monitor watched.

    A watched one is the unwatched one of its seed once more, up to its alarm; those that an alarm stopped are missing.
    """
    from failwise.detect import load_traces

    return load_traces(folder, lambda m: "watch" not in m.extra, features)


def _same_policy(asked: Fit | Bench, traces: Sequence[Trace]) -> None:
    """Refuse to look at the demonstrations with another policy than the one that acted."""
    from failwise.detect.trace import checkpoint
    from failwise.policies.compact.policy import weights_sha256

    if asked.policy is None:
        return
    if (acted := checkpoint(traces[0].meta)) != (given := weights_sha256(asked.policy)):
        raise SetupError(
            f"--policy {asked.policy} is checkpoint {given[:12] or '?'}, the episodes are of {acted[:12] or '?'}: "
            "its features mean nothing there"
        )


def _demonstrations(asked: Fit | Bench, traces: Sequence[Trace]) -> list[Trace]:
    """The demonstrations with the features of the episodes, kept beside what is made here."""
    if asked.demos is None or asked.policy is None:
        return []
    from failwise.learn.demonstrations import demonstration_traces

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
