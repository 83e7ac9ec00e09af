"""One row per episode, as other people's tools read it: CSV, JSON, or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Literal, TextIO

from failwise.store.episode_store import EpisodeStore
from failwise.types import EpisodeMeta

Format = Literal["csv", "json", "jsonl"]


@dataclass(frozen=True)
class OutcomeRow:
    """What became of one episode. None where it was not recorded or does not apply: an empty cell, or null.

    Imported episodes, and those that were recorded before there were records of them, tell nothing of alarms and
    interventions.

    Attributes:
        store: folder of the episode's store.
        episode_id, env_id, arm, env_seed, policy_seed, instruction: of the episode.
        outcome: success, failure, timeout, error or aborted. error: its line, where the outcome is error.
        success_once, success_at_end: whether the success condition held at some step, and at the last one.
        first_success_step: 0-based step after which it first held.
        n_steps, step_limit: environment steps. control_hz: of them per second.
        alarms: alarms of a monitor. first_alarm_step: the step before whose action the first one was raised.
        interventions: stretches in which something other than the policy acted. intervention_steps: steps of them.
        checkpoint_sha256, agent, failwise, simulator: what acted, and with what.
    """

    store: str
    episode_id: str
    env_id: str
    arm: str
    env_seed: int
    policy_seed: int
    instruction: str
    outcome: str
    error: str | None
    success_once: bool
    success_at_end: bool
    first_success_step: int | None
    n_steps: int
    step_limit: int
    control_hz: float
    alarms: int | None
    first_alarm_step: int | None
    interventions: int | None
    intervention_steps: int | None
    checkpoint_sha256: str | None
    agent: str | None
    failwise: str | None
    simulator: str | None


COLUMNS = tuple(field.name for field in fields(OutcomeRow))


def outcome_rows(stores: Iterable[EpisodeStore]) -> Iterator[OutcomeRow]:
    """The rows of all episodes, store by store, in the order of their ids.

    Raises:
        StoreError: an episode's meta data are damaged.
    """
    for store in stores:
        for meta in store.scan():
            yield _row(str(store.path), meta)


def write_outcomes(rows: Iterable[OutcomeRow], out: TextIO, form: Format) -> int:
    """Write rows as a table with a header, a JSON list, or one JSON object a line; returns how many.

    Args:
        rows: what to write; CSV and JSON lines hold one of them in memory at a time.
        out: an open text file; for CSV opened with ``newline=""``.
        form: the form.
    """
    if form == "json":
        dicts = [asdict(row) for row in rows]
        json.dump(dicts, out, indent=1)
        out.write("\n")
        return len(dicts)
    count = 0
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n") if form == "csv" else None
    if table is not None:
        table.writeheader()
    for row in rows:
        if table is None:
            out.write(json.dumps(asdict(row)) + "\n")
        else:
            table.writerow({name: _cell(value) for name, value in asdict(row).items()})
        count += 1
    return count


def _cell(value: object) -> object:
    """As other tools write it in CSV: nothing for None, true and false in lower case."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _row(store: str, meta: EpisodeMeta) -> OutcomeRow:
    steps = None
    if meta.interventions is not None:
        ends = [meta.n_steps if stretch.end is None else stretch.end for stretch in meta.interventions]
        steps = sum(end - stretch.start for stretch, end in zip(meta.interventions, ends, strict=True))
    made_by = meta.provenance
    return OutcomeRow(
        store=store,
        episode_id=meta.episode_id,
        env_id=meta.env_id,
        arm=meta.arm,
        env_seed=meta.env_seed,
        policy_seed=meta.policy_seed,
        instruction=meta.instruction,
        outcome=meta.outcome.value,
        error=meta.error or None,
        success_once=meta.success_once,
        success_at_end=meta.success_at_end,
        first_success_step=meta.first_success_step,
        n_steps=meta.n_steps,
        step_limit=meta.step_limit,
        control_hz=meta.control_hz,
        alarms=None if meta.alarms is None else len(meta.alarms),
        first_alarm_step=meta.alarms[0].step if meta.alarms else None,
        interventions=None if meta.interventions is None else len(meta.interventions),
        intervention_steps=steps,
        checkpoint_sha256=made_by.checkpoint_sha256 or None,
        agent=made_by.agent or None,
        failwise=made_by.failwise or None,
        simulator=made_by.simulator or None,
    )
