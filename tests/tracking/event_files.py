"""TensorBoard's own reading of its event files."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(out: Path) -> EventAccumulator:
    return EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve as (step, value), in the order in which it was written."""
    events = read(out)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def text(out: Path, tag: str) -> str:
    (event,) = read(out).Tensors(f"{tag}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())
