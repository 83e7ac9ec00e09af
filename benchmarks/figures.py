"""How every benchmark ends: one line of JSON that says what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def announce(benchmark: str, figures: Mapping[str, Any], table: bool = False, **about: Any) -> None:
    """Print the last line of a benchmark, after a table of its figures where it printed none itself.

    Args:
        benchmark: its name.
        figures: what was measured; numbers are rounded here to four decimals.
        table: print one.
        **about: what the figures hold for.
    """
    if table:
        for name, value in figures.items():
            print(f"  {name:26s} {value:10.3f}")
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"benchmark": benchmark, **about, "figures": rounded}))
