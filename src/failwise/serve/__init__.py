"""The policy server: openpi's websocket protocol, with a monitor's verdict beside every chunk."""

from failwise.serve.served import Served
from failwise.serve.server import PolicyServer, ServerOptions
from failwise.serve.session import Session

__all__ = ["PolicyServer", "Served", "ServerOptions", "Session"]
