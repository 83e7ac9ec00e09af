"""What is wanted: which kinds of failures, along which axes, in which stages, how strong, how many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from failwise.envs.leading import ArmEnvironment
from failwise.errors import SetupError
from failwise.generate.modes import MODES, Perturbation, check_mode, perturb
from failwise.generate.plan import Plan, expert_arm, make_plan
from failwise.protocols import Environment
from failwise.seeds import GENERATE

PROBED = 3  # layouts whose plans say which stages a task has


class Request(BaseModel):
    """Failures of one mode, spread evenly over its cells.

    Attributes:
        mode: of ``failwise.generate.MODES``. episodes: failures with a verified recovery.
        axes: only along these; () for all along which the environment can move.
        stages: only in these; () for all that the expert's plans have.
        magnitude: lowest and highest, in the mode's unit; None takes the mode's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: str
    episodes: int = Field(ge=0)
    axes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    magnitude: tuple[float, float] | None = None


class Cell(BaseModel):
    """One kind of failure to be made: a square of the coverage table.

    Attributes:
        env_id: of the environment.
        mode, axis, stage: see ``Perturbation``.
        magnitude: lowest and highest, in the mode's unit.
        wanted: failures with a verified recovery.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    env_id: str
    mode: str
    axis: str
    stage: str
    magnitude: tuple[float, float]
    wanted: int

    @property
    def name(self) -> str:
        """Short, and fit for an arm: "translation-x.grasped"."""
        return f"{self.mode}{'-' if self.axis else ''}{self.axis}.{self.stage}"


def parts_of(name: str) -> tuple[str, str, str]:
    """Mode, axis and stage of a cell's name; "" where it has no axis or no stage."""
    kind, _, stage = name.partition(".")
    mode, _, axis = kind.partition("-")
    return mode, axis, stage


def read_requests(path: Path) -> list[Request]:
    """A YAML list of requests.

    Raises:
        SetupError: not to be read, or not such a list; names the entry and the field.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        raise SetupError(f"{path} must hold a list of requests, for example: - {{mode: slip, episodes: 20}}")
    requests = []
    for number, entry in enumerate(content, 1):
        try:
            requests.append(Request.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the entry"
            raise SetupError(f"{path}, entry {number}, {where}: {first['msg']}") from error
    return requests


def cells_of(env: Environment, requests: Sequence[Request]) -> list[Cell]:
    """The cells of some requests in one environment; a few plans of its expert say which stages there are.

    Raises:
        SetupError: an unknown stage or axis, a mode that the environment cannot do or that changes nothing there,
            magnitudes outside its workspace, one cell asked for twice.
        UnknownNameError: an unknown mode.
    """
    arm = expert_arm(env)
    spec = arm.spec
    axes = [_axes(request, arm) for request in requests]
    plans = _probe(arm)
    cells: list[Cell] = []
    for request, ways in zip(requests, axes, strict=True):
        mode, kind = request.mode, MODES[request.mode]
        bounds = request.magnitude or (kind.low, kind.high)
        squares = [
            (axis, stage) for stage in _stages(request, arm) for axis in ways if _changes(plans, mode, axis, stage)
        ]
        if not squares:
            where = f" in {', '.join(request.stages)}" if request.stages else ""
            raise SetupError(f"{mode} changes nothing in the plans of {spec.env_id}{where}; leave it out there")
        for index, (axis, stage) in enumerate(squares):
            wanted = request.episodes // len(squares) + (index < request.episodes % len(squares))
            cells.append(Cell(env_id=spec.env_id, mode=mode, axis=axis, stage=stage, magnitude=bounds, wanted=wanted))
    names = [cell.name for cell in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SetupError(f"{twice[0]} is asked for twice; one request a mode, axis and stage")
    return cells


def possible_modes(env: Environment, stages: Sequence[str] = ()) -> list[str]:
    """The modes that change something in the plans of an environment's expert, in these stages or anywhere."""
    arm = expert_arm(env)
    plans, found = _probe(arm), []
    for mode in MODES:
        request = Request(mode=mode, episodes=0, stages=tuple(stages))
        try:
            ways = _axes(request, arm)
        except SetupError:
            continue
        if any(_changes(plans, mode, axis, stage) for axis in ways for stage in _stages(request, arm)):
            found.append(mode)
    return found


def _probe(arm: ArmEnvironment) -> list[Plan]:
    """A few plans of the expert."""
    made = (make_plan(arm, seed, arm.spec.instruction) for seed in GENERATE.claim(PROBED))
    if plans := [plan for plan in made if plan is not None]:
        return plans
    raise SetupError(f"the expert of {arm.spec.env_id} succeeds on none of {PROBED} layouts: no plan to perturb")


def _changes(plans: Sequence[Plan], mode: str, axis: str, stage: str) -> bool:
    """Whether a mode applies to any of some plans."""
    one = Perturbation(mode=mode, axis=axis, stage=stage, magnitude=MODES[mode].low)
    return any(perturb(plan, one) is not None for plan in plans)


def _stages(request: Request, arm: ArmEnvironment) -> list[str]:
    return [stage for stage in arm.spec.conditions if not request.stages or stage in request.stages]


def _axes(request: Request, arm: ArmEnvironment) -> list[str]:
    """The axes of a request that are possible in an environment, [""] for a mode without direction."""
    name = arm.spec.env_id
    if unknown := sorted(set(request.stages) - set(arm.spec.conditions)):
        raise SetupError(f"{name} has no stage {unknown[0]!r}; its stages are {', '.join(arm.spec.conditions)}")
    possible = check_mode(request.mode, arm, request.magnitude)
    if possible == ("",):
        return [""]
    if missing := [axis for axis in request.axes if axis not in possible]:
        raise SetupError(f"{request.mode} acts along {', '.join(possible)} in {name}, not along {missing[0]!r}")
    return [axis for axis in possible if not request.axes or axis in request.axes]
