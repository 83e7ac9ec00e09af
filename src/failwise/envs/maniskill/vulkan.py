"""Whether this machine can draw with Vulkan on the processor, and the line that mends it. Imports no simulator.

ManiSkill needs a Vulkan device even where nobody looks at a picture. Without a graphics card that is Mesa's
lavapipe, 24.3 or newer: older ones lack an extension that the simulator asks for.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = (Path("/usr/share/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
REMEDY = "make maniskill (as root it installs Mesa's lavapipe 24.3 or newer, else it prints the line that does)"


def software_driver() -> Path | None:
    """The description file of lavapipe, or None where it is not installed."""
    return next((path for folder in FOLDERS for path in sorted(folder.glob("lvp_icd*.json"))), None)


def choose_driver() -> None:
    """Name lavapipe to the Vulkan loader, before the simulator is imported; a choice of the user's own stays.

    Also lets it draw in the calling thread, so that workers do not fight over the cores.
    """
    driver = software_driver()
    if driver is not None:
        os.environ.setdefault("VK_ICD_FILENAMES", str(driver))
    os.environ.setdefault("LP_NUM_THREADS", "0")
