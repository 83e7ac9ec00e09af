"""The names in a store: of episodes, of their files, and of what is not yet an episode."""

from __future__ import annotations

import re
from hashlib import sha256

from failwise.errors import SetupError

META = "meta.json"
MANIFEST = "manifest.json"
STEPS = "steps.parquet"
CHUNKS = "chunks.parquet"
FRAMES = "frames.parquet"
FEATURES = "features.safetensors"
SNAPSHOTS = "snapshots.safetensors"

EPISODE_FILES = frozenset({META, STEPS, CHUNKS})
"""Any of these marks a directory as an episode, be it a damaged one; other folders are not ours to judge."""

QUARANTINE = "quarantine"
SHARDS = "shards"
INDEX = ".index.jsonl"
LABELS = "labels.jsonl"
LOCK = ".lock"
EARLY = "stopped_early.json"
"""Beside a store or in it: how many episodes there are may have depended on how they ended."""
WRITING = ".writing--"

# A file name may have 255 bytes; the rest is room for the suffixes that quarantine adds.
_LONGEST = 200
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def video_file(camera: str) -> str:
    """The file name of one camera's video."""
    return f"frames.{camera}.mp4"


def is_safe(name: str) -> bool:
    """Whether a name is a file name everywhere: ``[A-Za-z0-9][A-Za-z0-9._-]*``, at most 200 characters."""
    return len(name) <= _LONGEST and _SAFE.fullmatch(name) is not None


def is_plain(name: str) -> bool:
    """Whether a name stays inside its directory."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0")


def require_episode_id(name: str) -> None:
    """Raise ``SetupError`` unless ``name`` can name an episode's directory."""
    if not is_safe(name) or name in (QUARANTINE, SHARDS):
        raise SetupError(
            f"{name[:80]!r} cannot name an episode: begin with a letter or digit, then also '.', '_', '-', "
            f"at most {_LONGEST} characters, not {QUARANTINE!r} or {SHARDS!r}; failwise.store.episode_id makes one"
        )


def episode_id(env_id: str, arm: str, env_seed: int) -> str:
    """The id of what ``arm`` does in ``env_id`` from ``env_seed``: deterministic and safe as a file name.

    ``episode_id("metaworld/pick-place", "base", 123)`` is ``"metaworld.pick-place--base--000123"``. A part
    that is not safe as it stands (a path as an arm, say) is rewritten and marked with eight digits of its
    SHA-256, so that two different arms never share an id.

    Raises:
        SetupError: a part is empty or everything together is too long.
    """
    if not env_id or not arm:
        raise SetupError(f"an episode needs an environment id and an arm, got {env_id!r} and {arm!r}")
    name = f"{_safe_part(env_id.replace('/', '.', 1))}--{_safe_part(arm)}--{env_seed:06d}"
    require_episode_id(name)
    return name


def _safe_part(part: str) -> str:
    if is_safe(part) and "--" not in part:
        return part
    rewritten = re.sub("-{2,}", "-", _UNSAFE.sub("-", part)).strip("-.")[:60]
    return f"{rewritten or 'x'}.{sha256(part.encode()).hexdigest()[:8]}"
