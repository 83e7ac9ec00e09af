"""The arms race: collect, fit candidates, choose on validation seeds, prove on test seeds."""

from failwise.improve.demo import demo
from failwise.improve.options import ImproveOptions
from failwise.improve.run import improve

__all__ = ["ImproveOptions", "demo", "improve"]
