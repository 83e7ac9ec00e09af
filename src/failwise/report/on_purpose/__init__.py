"""The page about failures on purpose: what there is of them, how they came about, and what they look like."""

from failwise.report.on_purpose.write import is_made, write_made

__all__ = ["is_made", "write_made"]
