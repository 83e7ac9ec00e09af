"""A checkpoint that ``lerobot-train`` wrote, as a policy of this package.

Written where a policy is named, with LeRobot's own names of the pictures where the environment's differ::

    outputs/train/checkpoints/last/pretrained_model
    lerobot:outputs/train/checkpoints/last/pretrained_model?observation.images.front=corner2

LeRobot's own processors (normalisation, tokenizer) stand between: what goes in and out is the environment's.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from failwise.errors import CheckpointError, MissingDependencyError, SetupError
from failwise.policies.lerobot.batch import Inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEDY = "install LeRobot 0.6 on Python 3.12: pip install 'failwise[lerobot]' (in this repository: make lerobot)"
PICTURES = "observation.images"


class LeRobotPolicy:
    """Reads checkpoints of LeRobot; what comes out depends on the kind of policy."""

    @staticmethod
    def load(address: str | Path) -> Any:
        """The policy in a folder, with ``?KEY=CAMERA`` pairs behind it where cameras have other names.

        A generative policy (``failwise.protocols.GenerativePolicy``) for SmolVLA, pi0, pi05 and Diffusion, which can
        be steered; for every other kind a ``failwise.protocols.Policy``, which monitors and recovery work with.

        Raises:
            MissingDependencyError: LeRobot, or what this policy needs of it, is not installed.
            CheckpointError: the folder is missing, or is no checkpoint that LeRobot can read.
            SetupError: the text behind the folder names no picture of this policy.
        """
        folder, cameras = read_address(str(address))
        policy, before, after = open_checkpoint(folder)
        return wrap(policy, before, after, cameras)


def read_address(text: str) -> tuple[Path, dict[str, str]]:
    """``FOLDER?KEY=CAMERA&KEY=CAMERA`` -> the folder, and LeRobot's key of a picture -> camera.

    Raises:
        SetupError: a pair is not KEY=CAMERA.
        CheckpointError: no such folder. A checkpoint of ``lerobot-train`` may also be named by the folder above.
    """
    name, _, query = text.partition("?")
    try:
        cameras = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    except ValueError as error:
        raise SetupError(f"write {name}?observation.images.KEY=CAMERA, joined by &; not {query!r}") from error
    folder = Path(name)
    if (folder / "pretrained_model").is_dir():  # what 'lerobot-train' calls a checkpoint
        folder = folder / "pretrained_model"
    if not folder.is_dir():
        raise CheckpointError(f"no LeRobot checkpoint {name!r}; lerobot-train writes OUTPUT/checkpoints/last")
    return folder, cameras


def open_checkpoint(folder: Path) -> tuple[Any, Any, Any]:
    """LeRobot's policy in a folder, ready to act on this machine, with its pre- and post-processor.

    Raises:
        MissingDependencyError: LeRobot, or what this policy needs of it, is not installed.
        CheckpointError: it cannot be read.
    """
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
        from lerobot.utils.import_utils import register_third_party_plugins
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} is a policy of LeRobot, which cannot be loaded ({error}): {REMEDY}"
        ) from error
    for needed in ("config.json", "model.safetensors"):
        if not (folder / needed).is_file():
            raise CheckpointError(f"{folder} is not a LeRobot checkpoint: {needed} is missing")
    register_third_party_plugins()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces what it loads
            config = PreTrainedConfig.from_pretrained(folder, local_files_only=True)
            config.device = _device()
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, local_files_only=True)
            before, after = make_pre_post_processors(
                config,
                pretrained_path=str(folder),
                preprocessor_overrides={"device_processor": {"device": config.device}},
            )
    except ImportError as error:
        raise MissingDependencyError(f"{folder} needs more than LeRobot itself ({error}): {REMEDY}") from error
    except Exception as error:  # many kinds come out of its parsers
        raise CheckpointError(f"LeRobot cannot read {folder} ({_first_line(error)})") from error
    policy.eval()
    return policy, before, after


def wrap(policy: Any, before: Any, after: Any, cameras: Mapping[str, str]) -> Any:
    """A policy of LeRobot in this package's protocol; see ``LeRobotPolicy.load``."""
    from failwise.policies.lerobot.acting import ChunkPolicy, StepPolicy
    from failwise.policies.lerobot.diffusion import DiffusionPolicy
    from failwise.policies.lerobot.flow import FlowPolicy

    inputs = Inputs(policy.config, before, after, dict(cameras))
    core = getattr(policy, "model", None)
    if hasattr(core, "denoise_step") and hasattr(core, "sample_actions"):
        return FlowPolicy(policy, inputs)
    if hasattr(policy, "diffusion") and hasattr(policy.diffusion, "noise_scheduler"):
        return DiffusionPolicy(policy, inputs)
    whole = inputs.history == 1 and getattr(policy.config, "temporal_ensemble_coeff", None) is None
    return (ChunkPolicy if whole and inputs.execute > 1 else StepPolicy)(policy, inputs)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
