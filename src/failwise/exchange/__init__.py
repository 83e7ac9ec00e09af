"""Episodes in the forms of other tools, and back: datasets of LeRobot."""

from failwise.exchange.lerobot_export import Exported, ExportOptions, export_lerobot
from failwise.exchange.lerobot_import import Imported, ImportOptions, import_lerobot

__all__ = ["ExportOptions", "Exported", "ImportOptions", "Imported", "export_lerobot", "import_lerobot"]
