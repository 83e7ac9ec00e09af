"""What acts: policies, each encoding an observation once and predicting as often as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from failwise import registry
from failwise.errors import CheckpointError

__all__ = ["beside", "load_policy", "policy_folder", "shipped", "split_address", "weights_folder"]


def shipped(name: str) -> Path:
    """The folder of a checkpoint that comes with Failwise, such as "metaworld-base".

    Raises:
        CheckpointError: no checkpoint of that name is shipped.
    """
    folder = Path(__file__).parent / "checkpoints" / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"Failwise ships no checkpoint {name!r}")
    return folder


def policy_folder(path: str | Path) -> Path:
    """The folder that a path, or the name of a shipped checkpoint, stands for; a folder of that name comes first."""
    folder = Path(path)
    packaged = Path(__file__).parent / "checkpoints" / folder.name
    if not folder.exists() and folder.parent == Path() and packaged.is_dir():
        return packaged
    return folder


def weights_folder(policy: str | Path) -> Path:
    """Where the weights of a policy lie, however it is named; a checkpoint of lerobot-train may be the folder above."""
    kind, rest = split_address(policy)
    folder = policy_folder(rest.partition("?")[0] if kind else rest)
    inside = folder / "pretrained_model"
    return inside if inside.is_dir() and not (folder / "config.json").is_file() else folder


def split_address(path: str | Path) -> tuple[str, str]:
    """``KIND:REST`` of a policy that is read by its kind's own rules -> (kind, rest); ("", path) for any other."""
    kind, colon, rest = str(path).partition(":")
    if colon and kind in registry.names("policy") and hasattr(registry.load("policy", kind), "load"):
        return kind, rest
    return "", str(path)


def beside(folder: Path, policy: str) -> tuple[str, Path]:
    """What ``load_policy`` takes for the policy that an agent folder names, and the folder of its weights.

    A policy that is read by its kind's own rules stands there with them: "lerobot:policy?observation.image=corner".
    """
    kind, rest = split_address(policy)
    if not kind:
        return str(folder / policy), folder / policy
    name, mark, query = rest.partition("?")
    return f"{kind}:{folder / name}{mark}{query}", folder / name


def load_policy(path: str | Path) -> Any:
    """The policy in a checkpoint folder, or a shipped one by its name.

    The folder's ``config.json`` names its kind; one that LeRobot wrote is known by its own. ``KIND:REST``, such as
    "lerobot:outputs/train/checkpoints/last" or "openpi:ws://HOST:PORT", says which kind reads the rest.

    Raises:
        CheckpointError: the folder is missing, is no policy, or is damaged.
        UnknownNameError: no plugin provides that kind.
        SetupError: no policy server answers.
    """
    named, rest = split_address(path)
    if named:
        return registry.load("policy", named).load(rest)
    folder = weights_folder(path)
    if not folder.is_dir():
        raise CheckpointError(f"no policy folder {str(path)!r}; train one with: failwise train bc")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} is not a policy folder: config.json is missing")
    try:
        about = json.loads(config.read_text(encoding="utf-8"))
        kind = "lerobot" if "type" in about and "kind" not in about else about["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{config} does not name a policy kind ({error})") from error
    return registry.load("policy", kind).load(folder)
