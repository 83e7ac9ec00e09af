"""The tables of the page: coverage of the cells, and the yield of every mode. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from failwise.generate import MODES, Attempt, parts_of
from failwise.report.on_purpose.made import Made, is_own, kind, mode_rank
from failwise.report.on_purpose.words import counted, kind_of, named, plural, span

RESULTS = ("kept", "unmended", "harmless", "inapplicable", "no_plan", "error")
HOTTEST = 60  # per cent of the heat colour, so that text on it stays readable


@dataclass(frozen=True)
class Square:
    """A cell of the coverage table. ``heat``: per cent of the colour; ``short``: fewer than wanted; ``title``: all."""

    text: str
    heat: int
    short: bool
    title: str


@dataclass(frozen=True)
class CoverageRow:
    """A mode and axis of one task; a square a stage, None where nothing was tried."""

    mode: str
    label: str
    squares: tuple[Square | None, ...]


@dataclass(frozen=True)
class Coverage:
    """The table of one task. ``wanted``: 0 where it is not known."""

    env_id: str
    stages: tuple[str, ...]
    rows: tuple[CoverageRow, ...]
    kept: int
    wanted: int


@dataclass(frozen=True)
class CellRow:
    """All counts of one cell, as text."""

    env_id: str
    mode: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Yield:
    """What came of the attempts at one mode. ``share``: kept among the attempts."""

    mode: str
    label: str
    attempts: int
    kept: int
    recoveries: int
    unmended: int
    harmless: int
    no_plan: int
    error: int

    @property
    def share(self) -> float:
        """Kept among the attempts, 0 to 1."""
        return self.kept / self.attempts if self.attempts else 0.0


CELL_COLUMNS = (
    "mode",
    "axis",
    "stage",
    "magnitude",
    "kept",
    "wanted",
    "recoveries",
    "harmless",
    "unmended",
    "no plan",
    "errors",
)


def coverage_of(made: Made, env_id: str) -> Coverage:
    """Mode and axis against stage: how many failures were kept, and of how many wanted."""
    tallies = tallies_of(made, env_id)
    wanted = {name: made.cells[env_id, name].wanted for name in tallies if (env_id, name) in made.cells}
    most = max((n["kept"] for n in tallies.values()), default=0) or 1
    stages = made.stages[env_id]
    rows: dict[tuple[str, str], dict[str, Square]] = {}
    for name, n in tallies.items():
        mode, axis, stage = parts_of(name)
        goal = wanted.get(name)
        share = n["kept"] / most if not goal else min(1.0, n["kept"] / goal)
        rows.setdefault((mode, axis), {})[stage] = Square(
            text=str(n["kept"]) if goal is None else f"{n['kept']}/{goal}",
            heat=round(HOTTEST * share),
            short=goal is not None and n["kept"] < goal,
            title=f"{kind_of(mode, axis)}, {named(stage)}: {counted({r: n[r] for r in RESULTS}, 'not tried')}",
        )
    ordered = sorted(rows, key=lambda key: (mode_rank(key[0]), key[1]))
    used = [stage for stage in stages if any(stage in row for row in rows.values())]
    return Coverage(
        env_id=env_id,
        stages=tuple(used),
        rows=tuple(
            CoverageRow(mode, kind_of(mode, axis), tuple(rows[mode, axis].get(stage) for stage in used))
            for mode, axis in ordered
        ),
        kept=sum(n["kept"] for n in tallies.values()),
        wanted=sum(wanted.values()) if len(wanted) == len(tallies) else 0,
    )


def cell_rows(made: Made, env_id: str) -> list[CellRow]:
    """Every count of every cell of a task, as ``CELL_COLUMNS`` says."""
    rows = []
    for name, n in tallies_of(made, env_id).items():
        mode, axis, stage = parts_of(name)
        cell = made.cells.get((env_id, name))
        size, unit = "", MODES[mode].unit if mode in MODES else ""
        if cell is not None and unit:
            size = span(*cell.magnitude, unit)
        goal = "" if cell is None else str(cell.wanted)
        found = (n["recoveries"], n["harmless"], n["unmended"], n["no_plan"] + n["inapplicable"], n["error"])
        told = (named(mode), named(axis), named(stage), size, str(n["kept"]), goal, *map(str, found))
        rows.append(CellRow(env_id, mode, told))
    return sorted(rows, key=lambda row: (mode_rank(row.mode), row.cells))


def tallies_of(made: Made, env_id: str) -> dict[str, Counter[str]]:
    """Cell -> how often each result came, and under "recoveries" how many were verified; cells not yet tried too."""
    tallies = {name: Counter[str]() for task, name in made.cells if task == env_id}
    for attempt in made.attempts:
        if attempt.env_id == env_id:
            tally = tallies.setdefault(attempt.cell, Counter())
            tally[attempt.result] += 1
            tally["recoveries"] += attempt.corrections
    return tallies


def yields_of(attempts: Sequence[Attempt]) -> list[Yield]:
    """A row a mode."""
    found: dict[str, Counter[str]] = {}
    for attempt in attempts:
        tally = found.setdefault(parts_of(attempt.cell)[0], Counter())
        tally[attempt.result] += 1
        tally["recoveries"] += attempt.corrections
    return [
        Yield(
            mode=mode,
            label=named(mode),
            attempts=sum(n[result] for result in RESULTS),
            kept=n["kept"],
            recoveries=n["recoveries"],
            unmended=n["unmended"],
            harmless=n["harmless"],
            no_plan=n["no_plan"] + n["inapplicable"],
            error=n["error"],
        )
        for mode, n in sorted(found.items(), key=lambda item: mode_rank(item[0]))
    ]


def own_rows(made: Made) -> list[CellRow]:
    """The policy's own failures: a row a task and mode that rules named, with how many have verified recoveries."""
    rows = Counter((m.env_id, kind(m)[0]) for m in made.failures if is_own(m))
    mended = Counter((m.env_id, kind(m)[0]) for m in made.failures if is_own(m) and m.extra["corrections"])
    ways = Counter[tuple[str, str]]()
    for meta in made.failures:
        if is_own(meta):
            ways[meta.env_id, kind(meta)[0]] += len(meta.extra["corrections"])
    return [
        CellRow(env_id, mode, (env_id, named(mode), str(n), str(mended[env_id, mode]), str(ways[env_id, mode])))
        for (env_id, mode), n in sorted(rows.items(), key=lambda item: (item[0][0], mode_rank(item[0][1])))
    ]


def sentences_of(made: Made) -> list[tuple[str, str]]:
    """What there is, in claims with their evidence."""
    out = []
    if made.attempts:
        n = Counter[str](a.result for a in made.attempts)
        verified = sum(a.corrections for a in made.attempts)
        modes = {parts_of(a.cell)[0] for a in made.attempts if a.result == "kept"}
        tasks = {a.env_id for a in made.attempts if a.result == "kept"}
        tried = len(made.attempts)
        evidence = (
            f"Yield: {n['kept']} of {plural(tried, 'attempt')} were kept ({n['kept'] / tried:.0%}); "
            f"of the others: {counted({r: n[r] for r in RESULTS[1:]}, 'none')}."
        )
        if wanted := sum(cell.wanted for cell in made.cells.values()):
            have = Counter((a.env_id, a.cell) for a in made.attempts if a.result == "kept")
            got = sum(min(have[key], cell.wanted) for key, cell in made.cells.items())
            evidence += f" {got} of {wanted} wanted are there."
        claim = (
            f"{plural(n['kept'], 'failure')} on purpose with {plural(verified, 'verified recovery')}, "
            f"in {plural(len(modes), 'mode')} on {plural(len(tasks), 'task')}."
        )
        out.append((claim, evidence))
    if made.own:
        n = Counter[str](a.result for a in made.own)
        claim = f"{n['kept']} of {plural(len(made.own), 'own failure')} of a policy mended."
        verified = sum(a.corrections for a in made.own)
        others = counted({r: n[r] for r in RESULTS[1:]}, "none")
        evidence = f"{plural(verified, 'verified recovery')}; of the others: {others}."
        out.append((claim, evidence))
    return out
