"""Verbs with actions of their own: ``failwise VERB ACTION [OPTIONS]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from failwise.errors import UnknownNameError

Actions = Mapping[str, tuple[str, Callable[[Sequence[str]], int]]]


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
