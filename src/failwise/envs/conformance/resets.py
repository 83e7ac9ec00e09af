"""Does ``reset`` follow Gymnasium's rule for seeds, and refuse options that it does not know?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from failwise.envs.conformance.returns import fingerprint
from failwise.errors import SetupError
from failwise.protocols import Environment

_DRAWS = 3  # resets without a seed after one with a seed
_SEEDING = "Fix reset(): self.layouts = failwise.envs.given.LayoutSeeds(env_id) once, seed = self.layouts.draw(seed)"
_CHECKING = "Fix reset(): instruction = failwise.envs.given.checked_options(self.spec, options)"

REFUSED: tuple[dict[str, Any], ...] = (
    {"no_such_option": 1},
    {"instruction": ""},
    {"instruction": " \n"},
    {"instruction": None},
    {"instruction": 7},
)
"""Options that no environment can act on."""


def check_layout_sequence(env: Environment) -> Iterator[str]:
    """The layouts of ``reset()`` after ``reset(seed=s)`` are the same each time, distinct, and told in the info."""
    seeds, layouts = _sequence(env, 3)
    if seeds[0] != 3 or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        yield f"info['seed'] is {seeds[0]!r} after reset(seed=3); expected 3. {_SEEDING}, info['seed'] = seed"
        return
    env.reset(seed=9)
    env.reset()
    if (seeds, layouts) != _sequence(env, 3):
        yield (
            "reset() without a seed begins other layouts each time that reset(seed=3) came before; expected the same "
            f"sequence, as in Gymnasium. {_SEEDING}"
        )
        return
    if len(set(layouts)) <= _DRAWS:
        yield f"reset() without a seed repeats a layout after reset(seed=3); expected a new one each time. {_SEEDING}"
        return
    if set(layouts[1:]).intersection(_sequence(env, 4)[1]):
        yield (
            "reset() without a seed begins the same layout after reset(seed=3) and after reset(seed=4); expected the "
            f"generator to be seeded with each. {_SEEDING}"
        )
    if fingerprint(env.reset(seed=seeds[-1])[0]) != layouts[-1]:
        yield (
            f"info['seed'] of reset() without a seed is {seeds[-1]}, but reset(seed={seeds[-1]}) begins another "
            f"layout; expected that one. {_SEEDING}, info['seed'] = seed"
        )


def check_options(env: Environment) -> Iterator[str]:
    """Options that cannot be acted on are refused in one line, and the environment goes on as before."""
    before = fingerprint(env.reset(seed=0)[0])
    for options in REFUSED:
        try:
            env.reset(seed=0, options=options)
        except SetupError as error:
            if "\n" in str(error):
                yield f"reset(options={options}) is refused in several lines; expected one. {_CHECKING}"
            continue
        yield f"reset(options={options}) is accepted silently; expected SetupError with the accepted keys. {_CHECKING}"
    observation = env.reset(seed=0)[0]
    if observation.instruction != env.spec.instruction or fingerprint(observation) != before:
        yield f"refused options change a later episode; expected reset() to check them before anything. {_CHECKING}"


def _sequence(env: Environment, seed: int) -> tuple[list[Any], list[bytes]]:
    """Seeds told and layouts begun by a reset with a seed and those without one behind it."""
    seeds, layouts = [], []
    for given in (seed, *[None] * _DRAWS):
        observation, info = env.reset(seed=given)
        seeds.append(info.get("seed"))
        layouts.append(fingerprint(observation))
    return seeds, layouts
