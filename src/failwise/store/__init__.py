"""Episodes on disk: one directory an episode, committed by rename, read lazily, checked and repaired."""

from failwise.store.episode import StoredEpisode
from failwise.store.episode_store import EpisodeStore
from failwise.store.integrity import CheckResult, Problem, RepairResult, check, clear_leftovers, repair
from failwise.store.naming import episode_id
from failwise.store.summary import stores_under, summarise
from failwise.store.writer import EpisodeWriter

__all__ = [
    "CheckResult",
    "EpisodeStore",
    "EpisodeWriter",
    "Problem",
    "RepairResult",
    "StoredEpisode",
    "check",
    "clear_leftovers",
    "episode_id",
    "repair",
    "stores_under",
    "summarise",
]
