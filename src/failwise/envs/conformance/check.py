"""The conformance check as a whole: the spec first, then one step, then whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from failwise.envs.conformance.arm import check_arm
from failwise.envs.conformance.behaviour import CHECKS
from failwise.envs.conformance.returns import check_returns
from failwise.envs.conformance.spec import check_spec
from failwise.errors import FailwiseError
from failwise.protocols import Environment


class NonconformingError(FailwiseError):
    """An environment breaks the contract. The message lists every way in which it does."""


def check_env(env: Environment) -> list[str]:
    """Find where an environment breaks the contract of ``failwise.protocols.Environment``.

    Runs a few hundred steps and renders some dozens of pictures; leaves the environment open, in the middle of some
    episode.

    Returns:
        One line a problem: what is wrong, what was expected, where to fix it. Empty when it conforms.
    """
    problems = list(check_spec(env.spec))
    if problems:
        return problems  # everything else is measured against the spec
    first = list(_run(check_returns, env))
    if first:
        return first
    return [problem for check in (*CHECKS, check_arm) for problem in _run(check, env)]


def assert_conforms(env: Environment) -> None:
    """Refuse an environment that breaks the contract.

    Raises:
        NonconformingError: lists all problems that ``check_env`` finds.
    """
    problems = check_env(env)
    if problems:
        lines = "".join(f"\n  {i}. {problem}" for i, problem in enumerate(problems, 1))
        name = getattr(env.spec, "env_id", type(env).__name__)
        raise NonconformingError(f"{name} breaks the environment contract in {len(problems)} ways:{lines}")


def _run(check: Callable[[Environment], Iterator[str]], env: Environment) -> Iterator[str]:
    try:
        yield from check(env)
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "unknown place"
        topic = check.__name__.removeprefix("check_").replace("_", " ")
        yield f"{topic}: raised {type(error).__name__}: {error}; expected no exception. Fix {place}"
