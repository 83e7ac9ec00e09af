"""Episodes on disk: one directory an episode, committed by rename, read lazily, checked and repaired."""

from failwise.store.compaction import PER_SHARD, Compacted, Merged, compact, merge
from failwise.store.episode import StoredEpisode
from failwise.store.episode_store import EpisodeStore
from failwise.store.integrity import CheckResult, Problem, RepairResult, check, clear_leftovers, repair
from failwise.store.naming import episode_id
from failwise.store.summary import stopped_early, stores_under, summarise
from failwise.store.writer import EpisodeWriter

__all__ = [
    "PER_SHARD",
    "CheckResult",
    "Compacted",
    "EpisodeStore",
    "EpisodeWriter",
    "Merged",
    "Problem",
    "RepairResult",
    "StoredEpisode",
    "check",
    "clear_leftovers",
    "compact",
    "episode_id",
    "merge",
    "repair",
    "stopped_early",
    "stores_under",
    "summarise",
]
