"""Failures made useful: the same failed state again, and a recovery from it that was seen to work."""

from failwise.generate.recoveries import RecoveryItem, recover

__all__ = ["RecoveryItem", "recover"]
