"""Episodes in the forms of other tools, and back: LeRobot in both directions, robomimic and RLDS in one."""

from failwise.exchange.lerobot_export import Exported, ExportOptions, export_lerobot
from failwise.exchange.lerobot_import import Imported, ImportOptions, import_lerobot
from failwise.exchange.rlds import RldsOptions, import_rlds
from failwise.exchange.robomimic import RobomimicOptions, import_robomimic

__all__ = [
    "ExportOptions",
    "Exported",
    "ImportOptions",
    "Imported",
    "RldsOptions",
    "RobomimicOptions",
    "export_lerobot",
    "import_lerobot",
    "import_rlds",
    "import_robomimic",
]
