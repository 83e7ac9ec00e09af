"""The step table and the chunk table: arrays to parquet and back.

Both are written without anything that changes from run to run, so that the same episode gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from failwise.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.store.shards import ShardPath

_CONDITION = "condition:"
_INFO = "info:"


@dataclass(frozen=True)
class StepTable:
    """T environment steps as columns.

    Attributes:
        states: proprioception before each action, float32 (T, S).
        actions: as executed, float32 (T, A).
        rewards: after each action, float64 (T,).
        conditions: condition name -> bool (T,), after each action, in the task's order.
        actors: who chose each action, str (T,).
        chunk_steps: index of each action inside its chunk, int64 (T,).
        scores: detector scores, float64 (T,), NaN where there is none.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    conditions: Mapping[str, NDArray[np.bool_]]
    actors: NDArray[np.str_]
    chunk_steps: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class ChunkTable:
    """C policy inferences as columns.

    Attributes:
        starts: the step of each chunk's first action, int64 (C,).
        info: scalar name -> float32 (C,), NaN where a chunk did not report it.
    """

    starts: NDArray[np.int64]
    info: Mapping[str, NDArray[np.float32]]


def encode_steps(table: StepTable) -> bytes:
    """A step table as parquet: one row a step, vectors as fixed-size lists, one bool column a condition."""
    columns: dict[str, Any] = {"step": pa.array(np.arange(len(table.rewards)), pa.int32())}
    widths = {"state": table.states.shape[1], "action": table.actions.shape[1]}
    for name, vectors in (("state", table.states), ("action", table.actions)):
        if widths[name]:  # parquet has no lists of fixed size zero
            flat = pa.array(vectors.reshape(-1), pa.float32())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, widths[name])
    columns["reward"] = pa.array(table.rewards, pa.float64())
    for name, held in table.conditions.items():
        columns[_CONDITION + name] = pa.array(held, pa.bool_())
    columns["actor"] = pa.array(table.actors.tolist(), pa.string())
    columns["chunk_step"] = pa.array(table.chunk_steps, pa.int32())
    columns["score"] = pa.array(table.scores, pa.float64(), from_pandas=True)
    return to_parquet(columns, {"widths": widths})


def decode_steps(path: Path | ShardPath) -> StepTable:
    """Read what ``encode_steps`` wrote. Raises ``StoreError`` for a missing or damaged file."""
    with reading(path):
        table = pq.ParquetFile(source(path)).read(use_threads=False)
        widths = facts(table.schema)["widths"]
        return StepTable(
            states=_vectors(table, "state", widths["state"]),
            actions=_vectors(table, "action", widths["action"]),
            rewards=_column(table, "reward", np.float64),
            conditions={
                name.removeprefix(_CONDITION): _column(table, name, np.bool_)
                for name in table.column_names
                if name.startswith(_CONDITION)
            },
            actors=np.array(table.column("actor").to_pylist(), dtype=np.str_),
            chunk_steps=_column(table, "chunk_step", np.int64),
            scores=_column(table, "score", np.float64),
        )


def encode_chunks(table: ChunkTable) -> bytes:
    """A chunk table as parquet: one row a policy inference, one float column a scalar, sorted by name."""
    columns = {"start": pa.array(table.starts, pa.int32())}
    for name in sorted(table.info):
        columns[_INFO + name] = pa.array(table.info[name], pa.float32())
    return to_parquet(columns, {})


def decode_chunks(path: Path | ShardPath) -> ChunkTable:
    """Read what ``encode_chunks`` wrote. Raises ``StoreError`` for a missing or damaged file."""
    with reading(path):
        table = pq.ParquetFile(source(path)).read(use_threads=False)
        info = {
            name.removeprefix(_INFO): _column(table, name, np.float32)
            for name in table.column_names
            if name.startswith(_INFO)
        }
        return ChunkTable(_column(table, "start", np.int64), info)


def to_parquet(columns: Mapping[str, Any], about: Mapping[str, Any], **options: Any) -> bytes:
    """Arrow columns and a JSON-able note about them as the bytes of one parquet file."""
    note = {"failwise": json.dumps(about, sort_keys=True)}
    table = pa.table(dict(columns)).replace_schema_metadata(note)
    sink = pa.BufferOutputStream()
    settings = {"compression": "zstd", "use_dictionary": ["actor"], "write_statistics": False} | options
    pq.write_table(table, sink, **settings)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def facts(schema: Any) -> dict[str, Any]:
    """The note that ``to_parquet`` put beside the columns."""
    note: dict[str, Any] = json.loads(schema.metadata[b"failwise"])
    return note


def source(path: Path | ShardPath) -> Any:
    """What Arrow opens to read a file: its path, or its bytes inside a shard."""
    return path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())


@contextmanager
def reading(path: Path | ShardPath) -> Iterator[None]:
    """Turn whatever a reader raises about a file into one line, a ``StoreError`` with file and remedy."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            what = "is missing"
        else:
            first_line = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
            what = f"is damaged ({first_line})"
        store = path.parent.parent if isinstance(path, Path) else path.shard.path.parent.parent
        raise StoreError(f"{path}: {what}; run 'failwise store repair {store}'") from error


def _vectors(table: Any, name: str, width: int) -> NDArray[np.float32]:
    if not width:
        return np.zeros((table.num_rows, 0), np.float32)
    flat = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(table.num_rows, width)


def _column(table: Any, name: str, dtype: Any) -> NDArray[Any]:
    return np.array(table.column(name).to_numpy(), dtype=dtype)
