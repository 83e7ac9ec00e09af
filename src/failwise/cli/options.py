"""What several verbs share in reading their options: the parser, arms, and folders that must be writable."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from failwise.errors import SetupError, UnknownNameError

if TYPE_CHECKING:
    from failwise.protocols import Executor

Options = TypeVar("Options")
More = TypeVar("More")

Actions = Mapping[str, tuple[str, Callable[[Sequence[str]], int]]]


def parse(options: type[Options], argv: Sequence[str], verb: str) -> Options:
    """Read a frozen dataclass from the command line; a field's docstring is its help.

    Prints the help or the complaint and leaves with exit code 0 or 2 when there is nothing to run.
    """
    import tyro  # here, because `failwise --help` must not wait for it

    description = (options.__doc__ or "").strip()
    return tyro.cli(options, prog=f"failwise {verb}", description=description, args=list(argv))


def parse_with(
    common: type[Options], method: type[More], argv: Sequence[str], verb: str, description: str
) -> tuple[Options, More]:
    """Read two frozen dataclasses from one command line: a verb's own options, and those of what it calls.

    ``method`` must have a default for every field; its nested options are written ``--nested.option``.
    """
    import tyro

    # One class with the fields of both, so that the help is one list and no prefix stands before any of them.
    both: type[Any] = dataclass(frozen=True)(type(common.__name__, (method, common), {}))
    parsed = tyro.cli(both, prog=f"failwise {verb}", description=description, args=list(argv))
    return _part(common, parsed), _part(method, parsed)


def _part(kind: type[Options], whole: object) -> Options:
    """The fields of ``kind``, out of an object that has them and others."""
    return kind(**{field.name: getattr(whole, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def parse_arms(text: str) -> dict[str, str]:
    """``"base=models/base,afil=runs/x/agent"`` or plain paths, which are named after their last folders.

    Returns:
        Arm name -> agent, in the order given; the first is the baseline.

    Raises:
        SetupError: no arm, an empty name or path, or two arms of one name.
    """
    arms: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, agent = part.partition("=")
        if not given or "://" in name:  # the = of an address's own options
            name, agent = arm_name(part, taken=arms), part
        name, agent = name.strip(), agent.strip()
        if not name or not agent:
            raise SetupError(f"arm {part!r} is not NAME=PATH or PATH")
        if name in arms:
            raise SetupError(f"two arms are called {name!r}; give them names: --arms {name}={arms[name]},other={agent}")
        arms[name] = agent
    if not arms:
        raise SetupError("no arms given; write --arms base=PATH,other=PATH (the first is the baseline)")
    return arms


@contextmanager
def executor_for(kind: Literal["processes", "ray"], workers: int, ray_address: str) -> Iterator[Executor]:
    """What ``--executor``, ``--workers`` and ``--ray-address`` ask for, closed at the end."""
    if ray_address and kind != "ray":
        raise SetupError("--ray-address is for --executor ray")
    from failwise.rollout import make_executor

    with closing(make_executor(kind, worker_count(workers), address=ray_address)) as executor:
        yield executor


@contextmanager
def tracking(names: str, verb: str, out: Path, *options: Any) -> Iterator[None]:
    """What ``--track`` names, begun before the work and ended after it.

    Args:
        names: joined by commas; "" is none.
        verb: what is done.
        out: folder of the results.
        options: dataclasses, which the trackers are told.

    Raises:
        UnknownNameError, MissingDependencyError, SetupError: as ``failwise.tracking.tracked``.
    """
    from failwise.tracking import Run, tracked

    told = {name: value for one in options for name, value in asdict(one).items() if name != "track"}
    run = Run(verb, out, json.loads(json.dumps(told, default=str)))
    with tracked([name for part in names.split(",") if (name := part.strip())], run):
        yield


def arm_name(agent: str, taken: Container[str] = ()) -> str:
    """``runs/improve/agent`` -> "agent", "improve-agent" where that is taken; ``openpi:ws://pc:80?x=y`` -> "pc-80"."""
    path = Path(agent.partition("?")[0].replace(":", "-"))
    parts = [part for part in path.parts if part not in ("/", ".", "..")] or [agent]
    return parts[-1] if parts[-1] not in taken else "-".join(parts[-2:])


def agent_for(agent: str, env_ids: Sequence[str]) -> str:
    """The word ``random`` with the number of action dims that these tasks take; any other agent as it is.

    Raises:
        SetupError: the tasks differ in their action dims.
    """
    if agent != "random":
        return agent
    from failwise.envs import make_env

    dims = {}
    for env_id in env_ids:
        env = make_env(env_id)
        dims[len(env.spec.action_low)] = env_id
        env.close()
    if len(dims) > 1:
        differing = ", ".join(f"{env_id} takes {n}" for n, env_id in dims.items())
        raise SetupError(f"one random policy cannot act in all tasks ({differing}); run them one suite at a time")
    return f"random:{next(iter(dims))}"


def worker_count(workers: int, option: str = "--workers") -> int:
    """Refuse fewer than one process or thread, or more than a machine could mean.

    Raises:
        SetupError: not in 1..1024.
    """
    if not 1 <= workers <= 1024:
        raise SetupError(f"{option} {workers} is not a number to run with; it must be 1 to 1024")
    return workers


def writable_folder(path: Path, option: str = "--out") -> Path:
    """Make the folder, and prove that a file can be written into it, before hours of work depend on it.

    Raises:
        SetupError: it is a file, cannot be made, or refuses a file.
    """
    if path.exists() and not path.is_dir():
        raise SetupError(f"{option} {path} is a file, not a folder; name another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SetupError(
            f"cannot write to {option} {path} ({error.strerror}); name a folder you may write to"
        ) from error
    return path


def existing_folder(path: Path, option: str, holds: str) -> Path:
    """Refuse a folder that is not there.

    Raises:
        SetupError: no such folder. ``holds`` says what was expected in it.
    """
    if not path.is_dir():
        raise SetupError(f"{option} {path} is not a folder; it should hold {holds}")
    return path


def run_action(verb: str, actions: Actions, argv: Sequence[str]) -> int:
    """Run the action that ``argv`` begins with; without one, or with --help, say which there are.

    Args:
        verb: the verb's name.
        actions: name -> (summary, function).
        argv: what follows the verb.

    Raises:
        UnknownNameError: no action of that name.
    """
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<8} {summary}" for name, (summary, _) in actions.items())
        print(
            f"usage: failwise {verb} ACTION [OPTIONS]\n\nactions:\n{rows}\n\n"
            f"'failwise {verb} ACTION --help' shows its options."
        )
        return 0 if argv else 2
    name, *rest = argv
    if name not in actions:
        raise UnknownNameError(f"{verb} action", name, actions)
    return actions[name][1](rest)
