"""The command line: one file a verb, and the one place where errors become one line and an exit code.

Exit codes: 0 done, 1 a check found something wrong, 2 the request cannot run as asked, 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by SIGHUP.
A traceback means a bug in Failwise: every error that a user can cause is a ``FailwiseError``.

Each verb module offers ``main(argv: Sequence[str]) -> int``. It is imported only when its verb is called, so
``failwise --help`` loads neither torch nor the option parser.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from failwise.cli.stopping import exit_code, stoppable
from failwise.errors import FailwiseError, UnknownNameError

VERBS = {
    "collect": "run a policy (or the scripted expert) and record its episodes",
    "train": "turn recorded episodes into a policy or another model: failwise train METHOD",
    "generate": "make failures on purpose in the simulator, with verified recoveries",
    "improve": "the whole job: collect, learn from failures, choose on validation seeds, prove on test seeds",
    "evaluate": "compare policies and agents on paired seeds",
    "serve": "serve a policy by openpi's protocol, with a monitor's verdict beside every chunk",
    "compare": "is B better than A, from episodes that are there already",
    "detect": "fit, use or compare detectors of failure: failwise detect fit|score|bench",
    "diagnose": "say why episodes failed: failwise diagnose label|fit|predict",
    "report": "write the one-page HTML report of a run, or browse its episodes",
    "export": "write recorded episodes in the forms that other tools read: failwise export questions|lerobot",
    "list": "name what is there: failwise list envs|policies|methods",
    "doctor": "check this machine, with the line that mends what is missing",
    "demo": "the whole job in small on Meta-World, in minutes",
    "store": "check, repair, count, pack or join recorded episodes; LeRobot in both directions, robomimic and RLDS in",
}

# What the disk or its rights refuse is never a bug here, whichever call met it first.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def help_text() -> str:
    """What ``failwise --help`` prints."""
    rows = "\n".join(f"  {name:<10} {summary}" for name, summary in VERBS.items())
    return (
        "usage: failwise VERB [OPTIONS]\n\n"
        "Makes robot policies wise from their failures, and proves it on paired seeds.\n\n"
        f"verbs:\n{rows}\n\n"
        "'failwise VERB --help' shows a verb's options; 'failwise --version' the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Not list(...): once the verb of that name was imported, it is what the name means in this package.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    try:
        with stoppable():
            code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except FailwiseError as error:
        return _one_line(str(error), 2)
    except KeyboardInterrupt as stop:
        again = shlex.join(["failwise", *arguments])
        return _one_line(f"stopped. What is recorded is kept; the same command resumes: {again}", exit_code(stop))
    except BrokenPipeError:
        # The reader (head, less) left. Point stdout elsewhere: the interpreter flushes it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = error.filename or "the output folder"
        return _one_line(f"cannot write or read {place}: {error.strerror}; choose another folder or free some space", 2)


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] in ("--version", "version"):
        from failwise import __version__

        print(f"failwise {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    code: int = import_module(f"failwise.cli.{verb}").main(rest)
    return code


def _one_line(message: str, code: int) -> int:
    print("failwise:", " ".join(message.split()), file=sys.stderr)
    return code


__all__ = ["VERBS", "help_text", "main"]
