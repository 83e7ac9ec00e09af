"""``failwise export``: what was recorded, in the forms that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failwise.cli.options import Actions, existing_folder, parse, run_action, writable_folder
from failwise.errors import SetupError


@dataclass(frozen=True)
class Questions:
    """Questions and answers with pictures about failures on purpose, for fine-tuning a vision-language model."""

    data: Path
    """Folder that 'failwise generate' made, with pictures."""
    out: Path
    """Folder for questions.json and the pictures."""
    correct: float = 1.0
    """Questions about moments that do not fail, for each about one that does."""
    seed: int = 0
    """Of the choice of those moments."""


def questions(argv: Sequence[str]) -> int:
    """Write the questions."""
    asked = parse(Questions, argv, "export questions")
    existing_folder(asked.data, "--data", "what 'failwise generate' made")
    if asked.correct < 0:
        raise SetupError(f"--correct must be at least 0, not {asked.correct}")
    writable_folder(asked.out)
    from failwise.generate.questions import export_questions

    print(export_questions(asked.data, asked.out, asked.correct, asked.seed))
    return 0


def lerobot(argv: Sequence[str]) -> int:
    """Write a LeRobotDataset."""
    from failwise.cli.lerobot import export_lerobot

    return export_lerobot(argv)


ACTIONS: Actions = {
    "lerobot": ("a LeRobotDataset v3, failures with what is known of them", lerobot),
    "questions": ("questions and answers with pictures about failures, for fine-tuning a VLM", questions),
}


def main(argv: Sequence[str]) -> int:
    """Run the action that ``argv`` names."""
    return run_action("export", ACTIONS, argv)
