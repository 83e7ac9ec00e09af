"""The conformance check as a whole: the spec first, then one step, then whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from failwise.envs.conformance.arm import check_arm
from failwise.envs.conformance.behaviour import CHECKS, check_two_at_once
from failwise.envs.conformance.resets import check_layout_sequence, check_options
from failwise.envs.conformance.returns import check_returns
from failwise.envs.conformance.spec import check_spec
from failwise.errors import FailwiseError
from failwise.protocols import Environment

_RESETS = (check_layout_sequence, check_options)


class NonconformingError(FailwiseError):
    """An environment breaks the contract. The message lists every way in which it does."""


def check_env(env: Environment, other: Environment | None = None) -> list[str]:
    """Find where an environment breaks the contract of ``failwise.protocols.Environment``.

    Runs a few hundred steps and renders some dozens of pictures; leaves the environment open, in the middle of some
    episode.

    Args:
        env: the environment to check.
        other: a second one of the same suite, of the same or of another task, made in the same process. With it, the
            check also tells whether one changes the other's images.

    Returns:
        One line a problem: what is wrong, what was expected, where to fix it. Empty when it conforms.
    """
    problems = list(check_spec(env.spec))
    if problems:
        return problems  # everything else is measured against the spec
    first = list(_run(check_returns, env))
    if first:
        return first
    problems = [problem for check in (*CHECKS, *_RESETS, check_arm) for problem in _run(check, env)]
    if other is not None:
        problems += _run(partial(check_two_at_once, other=other), env, "two at once")
    return problems


def assert_conforms(env: Environment, other: Environment | None = None) -> None:
    """Refuse an environment that breaks the contract.

    Args:
        env: the environment to check.
        other: a second one of the same suite, as for ``check_env``.

    Raises:
        NonconformingError: lists all problems that ``check_env`` finds.
    """
    problems = check_env(env, other)
    if problems:
        lines = "".join(f"\n  {i}. {problem}" for i, problem in enumerate(problems, 1))
        name = getattr(env.spec, "env_id", type(env).__name__)
        raise NonconformingError(f"{name} breaks the environment contract in {len(problems)} ways:{lines}")


def _run(check: Callable[[Environment], Iterator[str]], env: Environment, topic: str = "") -> Iterator[str]:
    try:
        yield from check(env)
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "unknown place"
        topic = topic or check.__name__.removeprefix("check_").replace("_", " ")
        yield f"{topic}: raised {type(error).__name__}: {error}; expected no exception. Fix {place}"
