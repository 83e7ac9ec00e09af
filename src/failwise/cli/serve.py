"""``failwise serve``: a policy behind openpi's protocol, with a monitor's verdict beside every chunk."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from failwise.cli.options import existing_folder, parse
from failwise.errors import SetupError

if TYPE_CHECKING:
    from failwise.serve.served import Served


@dataclass(frozen=True)
class Serve:
    """Serve a policy to robots and simulators in other processes, by openpi's websocket protocol. Ctrl-C ends it."""

    policy: str
    """A policy folder, an agent folder, the name of a policy that comes with Failwise (metaworld-base), or
    random:ACTION_DIM."""
    steer: str = ""
    """What steers sampling: names with commas ('failwise list methods'), or a JSON list as in agent.json; none for
    nothing. Default: an agent folder's own."""
    monitor: Path | None = None
    """Folder of a detector that 'failwise detect fit' wrote: its score, bound and alarm come with every chunk."""
    diagnoser: Path | None = None
    """Folder of a classifier that 'failwise diagnose fit' wrote: once the monitor alarms, it says why."""
    keys: str = ""
    """Names under which clients send what the policy sees: libero, droid, or a JSON file {"key": "image:NAME", ...}.
    Default: observation/images/CAMERA, observation/state, prompt."""
    resize: Literal["same-aspect", "pad", "stretch", "off"] = "same-aspect"
    """What becomes of images of another size than the policy's: same-aspect resizes those of its aspect ratio and
    refuses others; pad keeps the aspect ratio and fills with black, as openpi does; stretch does not keep it; off
    resizes none. A policy that resizes on its own, such as pi0 in LeRobot, gets every image as it comes."""
    host: str = "127.0.0.1"
    """Where to listen. Anything else than this machine itself should have a token."""
    port: int = 8000
    """Where to listen; 0 takes any free one."""
    token: str = ""
    """What clients must show as 'Authorization: Api-Key TOKEN'. Other users of this machine can see it on the command
    line: rather use --token-file."""
    token_file: Path | None = None
    """File that holds the token."""
    max_message_mb: float = 16.0
    """Size of a message, in MiB, above which a client is cut off."""
    clients: int = 64
    """Clients at a time."""
    max_wait: float = 20.0
    """Seconds that an inference may wait for its turn. Then its client is told that the server is busy, which stock
    clients raise as an error; set it below the time after which your clients give up."""
    queue: int | None = None
    """Inferences that may be in line, the running one among them; a client beyond them is told at once that the server
    is busy. Default: as many as --clients."""
    threads: int = 0
    """Torch threads of an inference; 0 leaves it to torch. With 1, actions are to the bit those of 'failwise evaluate'
    on the same policy."""
    seed: int = 0
    """Of the noise of clients that give no seed."""


def main(argv: Sequence[str]) -> int:
    """Load everything, listen, and say how to connect."""
    asked = parse(Serve, argv, "serve")
    from failwise.policies.remote.address import read_token
    from failwise.wire import KeyMap

    if asked.token and asked.token_file:
        raise SetupError("give --token or --token-file, not both")
    if asked.seed < 0:
        raise SetupError(f"--seed {asked.seed} must not be negative")
    token = read_token(asked.token_file) if asked.token_file else asked.token
    keys = KeyMap.parse(asked.keys)
    for option, folder, holds in (
        ("--monitor", asked.monitor, "a detector that 'failwise detect fit' wrote"),
        ("--diagnoser", asked.diagnoser, "a classifier that 'failwise diagnose fit' wrote"),
    ):
        if folder is not None:
            existing_folder(folder, option, holds)
    from failwise.serve.served import Served, parse_steering
    from failwise.serve.server import ServerOptions, metadata_of, run_server, warning

    options = ServerOptions(
        host=asked.host, port=asked.port, token=token, message_mb=asked.max_message_mb, queue=asked.queue,
        clients=asked.clients, max_wait=asked.max_wait, threads=asked.threads,
    )  # fmt: skip
    served = Served(
        asked.policy, steer=parse_steering(asked.steer), monitor=asked.monitor, diagnoser=asked.diagnoser, keys=keys,
        seed=asked.seed, resize=asked.resize,
    )  # fmt: skip
    logging.basicConfig(level=logging.WARNING, format="failwise: %(message)s")
    if said := warning(options):
        print(f"failwise: warning: {said}", file=sys.stderr)

    about = metadata_of(served)
    print(f"serving {asked.policy}: chunks of {about['horizon']} x {about['action_dim']}")
    unread = f" (not read by this policy: {', '.join(about['unread_keys'])})" if about["unread_keys"] else ""
    print(f"keys of an observation: {', '.join(about['keys'])}{unread}", flush=True)

    def started(port: int) -> None:
        print_warm_up(served)
        print(f"listening at ws://{options.host}:{port}; Ctrl-C ends. To evaluate it on a task:")
        print(f"failwise evaluate --policy openpi:ws://{options.host}:{port} --env TASK --out FOLDER", flush=True)

    counts = run_server(served, options, started)
    print(f"served {counts.inferences} inferences to {counts.clients} clients; refused {counts.refused}")
    print(counts.summary())
    return 0


def print_warm_up(served: Served) -> None:
    """Say how long the warm-up took, or, as a warning, why there was none."""
    done = served.warmed
    if done is None:
        return
    if done.obstacle:
        print(f"failwise: warning: not warmed up: {done.obstacle}; first replies may be slow", file=sys.stderr)
    else:
        print(f"warmed up in {done.seconds:.1f} s")
