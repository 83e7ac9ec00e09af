"""An episode as a recording for the rerun viewer. The only file that knows rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from failwise.errors import SetupError
from failwise.store import StoredEpisode

APPLICATION = "failwise"


def export_rerun(episode: StoredEpisode, path: Path) -> Path:
    """Write ``path`` (.rrd): cameras, actions, proprioception, rewards, conditions, scores and events over ``step``.

    The timeline ``time`` holds the same in seconds. Open it with ``rerun FILE``.

    Args:
        episode: what to export.
        path: the file; its folder is made.

    Raises:
        SetupError: rerun is not installed, or the file cannot be written.
    """
    rr = _import_rerun()
    meta = episode.meta
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    with rr.RecordingStream(APPLICATION, recording_id=f"{path.parent.resolve()}/{meta.episode_id}") as recording:
        recording.save(str(path))
        recording.send_recording_name(f"{meta.env_id} seed {meta.env_seed} {meta.arm}: {meta.outcome.value}")

        def at(step: int) -> None:
            recording.set_time("step", sequence=step)
            recording.set_time("time", duration=step / meta.control_hz)

        about = "\n".join(f"- {k}: {v}" for k, v in _about(episode).items())
        recording.log("episode", rr.TextDocument(about, media_type="text/markdown"), static=True)
        for camera in episode.cameras():
            for look, step in enumerate(episode.look_steps().tolist()):
                at(step)
                recording.log(f"camera/{_part(camera)}", rr.Image(episode.frames(camera, [look])[0]))
        for name, values in _scalars(episode).items():
            for step in np.flatnonzero(~np.isnan(values)).tolist():
                at(step)
                recording.log(name, rr.Scalars(float(values[step])))
        for event in meta.failure_events:
            at(event.onset_step)
            text = " ".join(filter(None, (event.mode, event.stage, f"({event.source})", event.evidence)))
            recording.log("events", rr.TextLog(text, level=rr.TextLogLevel.WARN))
    if not path.is_file():
        raise SetupError(f"rerun wrote nothing to {path}; is the disk full?")
    return path


def _about(episode: StoredEpisode) -> dict[str, Any]:
    meta = episode.meta
    return {
        "task": meta.env_id, "instruction": meta.instruction, "arm": meta.arm, "seed": meta.env_seed,
        "outcome": meta.outcome.value, "agent": meta.provenance.agent, "failwise": meta.provenance.failwise,
    }  # fmt: skip


def _scalars(episode: StoredEpisode) -> dict[str, np.ndarray]:
    """Entity path -> one value a step, NaN where there is none."""
    steps = episode.meta.n_steps
    out: dict[str, np.ndarray] = {"reward": episode.rewards(), "score": episode.scores()}
    for kind, vectors in (("action", episode.actions()), ("state", episode.states())):
        out |= {f"{kind}/{i}": vectors[:, i] for i in range(vectors.shape[1])}
    out |= {f"condition/{_part(name)}": held.astype(float) for name, held in episode.conditions().items()}
    starts = episode.chunk_starts()
    for name, values in episode.info().items():
        out[f"chunk/{_part(name)}"] = np.full(steps, np.nan)
        out[f"chunk/{_part(name)}"][starts] = values
    return out


def _part(name: str) -> str:
    """A name as one part of an entity path."""
    return str(_import_rerun().escape_entity_path_part(name))


def _import_rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise SetupError("the export for rerun needs its SDK: pip install 'failwise[rerun]'") from error
    return rerun
