"""An episode with a detector's score: key frames over the curve with its band, and a video with the curve drawn in."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.trace import known_onset
from failwise.errors import DataError
from failwise.store import StoredEpisode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from failwise.detect import Monitor, Trace

BLUE, RED, GREY, ORANGE = "#2f6db3", "#b3362f", "#9aa3ad", "#d9822b"
FRAMES = 6
VIDEO_WIDTH = 480  # pixels


@dataclass(frozen=True)
class ScoredEpisode:
    """A recorded episode as a monitor saw it.

    Attributes:
        episode: the record.
        detector: its name.
        scores, band: float64 (T,) a step, NaN where nobody watched; one more of an episode that the alarm stopped.
        alarm: the step of the first alarm, or None.
        onset: the step at which the failure is known to begin (injected or labelled), or None.
    """

    episode: StoredEpisode
    detector: str
    scores: NDArray[np.float64]
    band: NDArray[np.float64]
    alarm: int | None
    onset: int | None

    @property
    def delay(self) -> int | None:
        """Steps from the known onset to the alarm; negative where the alarm came first; None where one is missing."""
        return None if self.alarm is None or self.onset is None else self.alarm - self.onset

    @property
    def title(self) -> str:
        """One line: which episode, how it ended, when the alarm was."""
        meta = self.episode.meta
        parts = [f"{meta.env_id}, seed {meta.env_seed}: {meta.outcome.value} after {meta.n_steps} steps"]
        if self.alarm is not None:
            parts.append(f"alarm at step {self.alarm} ({self.alarm / meta.control_hz:.1f} s)")
        if self.delay is not None:
            parts.append(f"{self.delay} steps ({self.delay / meta.control_hz:.2f} s) after the onset")
        return ", ".join(parts)


def scored_by(monitor: Monitor, episode: StoredEpisode, trace: Trace) -> ScoredEpisode:
    """Score a recorded episode now."""
    monitor.reset(trace.meta.env_id)
    verdicts = [monitor.update(moment) for moment in trace.moments()]
    scores, band = (np.array([getattr(v, name) for v in verdicts], np.float64) for name in ("score", "band"))
    return ScoredEpisode(episode, monitor.detector.name, scores, band, monitor.alarmed_at, known_onset(episode.meta))


def as_recorded(episode: StoredEpisode) -> ScoredEpisode:
    """What a monitor in the loop recorded.

    Raises:
        DataError: the episode was not watched.
    """
    watch = episode.meta.extra.get("watch")
    if watch is None:
        raise DataError(f"{episode.id} was not watched by a monitor")
    starts, info = episode.chunk_starts(), episode.info()
    at = info.get("band", np.full(len(starts), np.nan))
    band = np.repeat(at, np.diff([*starts, episode.meta.n_steps])).astype(np.float64)
    scores = episode.scores()
    if stopped := watch.get("stopped_at"):
        scores, band = np.append(scores, stopped["score"]), np.append(band, stopped["band"])
    alarm = next((e.onset_step for e in episode.meta.failure_events if e.mode == "alarm"), None)
    return ScoredEpisode(episode, str(watch["detector"]), scores, band, alarm, known_onset(episode.meta))


def draw_episode(scored: ScoredEpisode) -> bytes:
    """PNG: key frames (start, onset, alarm, end and between) over the score with its band."""
    pyplot = _pyplot()
    figure = pyplot.figure(figsize=(9.6, 3.9), layout="constrained")
    frames = _key_frames(scored)
    grid = figure.add_gridspec(2, max(1, len(frames)), height_ratios=(1.15, 1))
    for column, (label, image) in enumerate(frames):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image)
        axes.set_title(label, fontsize=9, color=RED if "alarm" in label else "black")
        axes.axis("off")
    _curve(figure.add_subplot(grid[1, :]), scored)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100)
    pyplot.close(figure)
    return sink.getvalue()


def draw_video(scored: ScoredEpisode, path: Path) -> Path:
    """An mp4 of every recorded picture, cameras side by side, over the curve with a cursor.

    Raises:
        DataError: the episode has no pictures.
    """
    from PIL import Image

    from failwise.store.video import encode_video

    episode = scored.episode
    if not episode.meta.n_frames:
        raise DataError(f"{episode.id} has no pictures to make a video of")
    curve, left, right = _curve_image(scored)
    looks = episode.look_steps()
    views = [episode.frames(camera) for camera in episode.cameras()]
    out = []
    for i, step in enumerate(looks):
        together = np.concatenate([view[i] for view in views], axis=1)
        height = round(together.shape[0] * VIDEO_WIDTH / together.shape[1])
        picture = np.asarray(Image.fromarray(together).resize((VIDEO_WIDTH, height), Image.Resampling.BILINEAR))
        plot = curve.copy()
        x = round(left + (right - left) * min(1.0, step / _last(scored)))
        plot[:, max(0, x - 1) : x + 1] = (0, 0, 0)
        frame = np.concatenate([picture, plot])
        if scored.alarm is not None and step >= scored.alarm:
            frame[:6] = frame[-6:] = (179, 54, 47)
            frame[:, :6] = frame[:, -6:] = (179, 54, 47)
        out.append(frame)
    path.write_bytes(encode_video(out))
    return path


def _key_frames(scored: ScoredEpisode) -> list[tuple[str, NDArray[np.uint8]]]:
    """Labelled pictures of the first camera: where something happened, filled up evenly."""
    episode = scored.episode
    steps = episode.look_steps()
    if not len(steps):
        return []
    wanted = {0: "start", len(steps) - 1: f"step {steps[-1]}"}
    for name, step in (("onset", scored.onset), ("alarm", scored.alarm)):
        if step is not None:
            look = int(np.abs(steps - step).argmin())
            wanted[look] = f"{name}, step {steps[look]}"
    for look in np.linspace(0, len(steps) - 1, FRAMES).round().astype(int).tolist():
        if len(wanted) < FRAMES:
            wanted.setdefault(look, f"step {steps[look]}")
    looks = sorted(wanted)
    images = episode.frames(episode.cameras()[0], looks)
    return [(wanted[look], image) for look, image in zip(looks, images, strict=True)]


def _last(scored: ScoredEpisode) -> int:
    """The step at which the curve's axis ends: an alarm that stopped an episode was never executed, and is shown."""
    return max(1, len(scored.scores) - 1, 0 if scored.alarm is None else scored.alarm + 1)


def _curve(axes: Axes, scored: ScoredEpisode) -> None:
    steps = np.arange(len(scored.scores))
    axes.plot(steps, scored.scores, color=BLUE, lw=1.8, drawstyle="steps-post", label=scored.detector)
    axes.plot(
        steps,
        np.where(np.isfinite(scored.band), scored.band, np.nan),
        color=GREY,
        lw=1.4,
        ls="--",
        drawstyle="steps-post",
        label="band",
    )
    if scored.onset is not None:
        axes.axvline(scored.onset, color=ORANGE, lw=1.6, ls=":", label="onset")
    if scored.alarm is not None:
        axes.axvline(scored.alarm, color=RED, lw=1.6, label="alarm")
    axes.set(xlabel="step", ylabel="score", xlim=(0, _last(scored)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")


def _curve_image(scored: ScoredEpisode) -> tuple[NDArray[np.uint8], float, float]:
    """The curve as pixels (h, VIDEO_WIDTH, 3), and where its axis begins and ends."""
    pyplot = _pyplot()
    figure = pyplot.figure(figsize=(VIDEO_WIDTH / 100, 1.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _curve(axes, scored)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    edges = axes.get_window_extent()
    pyplot.close(figure)
    return pixels, float(edges.x0), float(edges.x1)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
