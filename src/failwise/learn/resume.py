"""Resumable checkpoints of a training, as safetensors: weights, the optimiser's state, how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from failwise.errors import CheckpointError

FILE = "training.safetensors"


def save_training(
    folder: Path, weights: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, about: Mapping[str, Any],
    step: int, loss: float,
) -> None:  # fmt: skip
    """Write a checkpoint to a temporary file, then rename it.

    Args:
        folder: made if it is not there.
        weights: everything that changes in training, by name.
        optimiser: AdamW over them.
        about: JSON values that decide where training ends, which a resumed one must share.
        step: done so far.
        loss: to be shown on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {**weights, **_state(optimiser)}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        folder / "training.tmp",
        {"step": json.dumps(step), "loss": json.dumps(loss), "options": json.dumps(about, sort_keys=True)},
    )
    (folder / "training.tmp").rename(folder / FILE)


def resume_training(
    folder: Path, weights: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, about: Mapping[str, Any]
) -> tuple[int, float]:
    """Load the last checkpoint into ``weights`` and ``optimiser``: its step and loss; (0, NaN) when there is none.

    Raises:
        CheckpointError: it is damaged, of another architecture, or of a training with other options.
    """
    path = folder / FILE
    if not path.is_file():
        return 0, float("nan")
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata()
        before, now = json.loads(told["options"]), json.loads(json.dumps(about))
        if before != now:
            other = ", ".join(k for k in now if before.get(k) != now[k])
            raise CheckpointError(f"{path} is of a training with another {other}; remove it to start anew")
        step, loss = int(json.loads(told["step"])), float(json.loads(told["loss"]))
        tensors = load_file(path)
        for name, weight in weights.items():
            if tensors[name].shape != weight.shape:  # copy_ would broadcast
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(weight.shape)}")
        for name, weight in weights.items():
            weight.detach().copy_(tensors[name])
        _restore(optimiser, tensors)
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} does not fit this training ({reason}); remove it to start anew") from error
    return step, loss


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments by the parameter's place; a parameter that never had a gradient has none."""
    return {
        f"optimiser.{i:04d}.{k}": v
        for i, parameter in enumerate(_parameters(optimiser))
        for k, v in optimiser.state.get(parameter, {}).items()
    }


def _restore(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    fused = all(group.get("fused") for group in optimiser.param_groups)
    for i, parameter in enumerate(_parameters(optimiser)):
        prefix = f"optimiser.{i:04d}."
        state = {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}
        if state:  # AdamW keeps its step count on the CPU, unless it is fused; the moments lie beside the parameter
            here = parameter.device
            optimiser.state[parameter] = {k: v if k == "step" and not fused else v.to(here) for k, v in state.items()}
