"""Does an environment keep the contract? Checks for its author, with what is wrong, what was expected, where to fix it.

In a plugin's own tests::

    from failwise.envs.conformance import assert_conforms

    def test_my_environment() -> None:
        assert_conforms(make("my-task"), other=make("my-other-task"))
"""

from failwise.envs.conformance.check import NonconformingError, assert_conforms, check_env

__all__ = ["NonconformingError", "assert_conforms", "check_env"]
