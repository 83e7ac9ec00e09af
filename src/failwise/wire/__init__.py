"""What crosses a socket: messages of openpi's protocol, and which of their keys stand for what a policy sees."""

from failwise.wire.codec import Limits, pack, unpack
from failwise.wire.keys import KeyMap

__all__ = ["KeyMap", "Limits", "pack", "unpack"]
