"""A policy in another process, another Python or another machine: openpi's protocol from the client's side."""

from failwise.policies.remote.address import PREFIX, Address
from failwise.policies.remote.policy import RemotePolicy

__all__ = ["PREFIX", "Address", "RemotePolicy"]
