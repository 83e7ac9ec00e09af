"""A real browser for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .purposely import write_failures

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium: scripts/browser.sh installs it")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"{BROWSER} does not start: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture(scope="session")
def purposely(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of failures on purpose; read it, or copy it."""
    return write_failures(tmp_path_factory.mktemp("purposely") / "failures")
