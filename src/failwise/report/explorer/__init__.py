"""The failure explorer: a web page on this machine to browse, compare and label recorded episodes."""

from failwise.report.explorer.app import make_app, serve

__all__ = ["make_app", "serve"]
