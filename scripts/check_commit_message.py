"""Accepts a commit message in the form of Conventional Commits 1.0: ``type(scope)!: subject``.

Usage: check_commit_message.py FILE      (git's commit-msg hook passes the file)
"""

import re
import sys
from pathlib import Path

TYPES = ("build", "chore", "ci", "docs", "feat", "fix", "perf", "refactor", "revert", "style", "test")
LONGEST = 100
_FORM = re.compile(rf"(?:{'|'.join(TYPES)})(?:\([a-z0-9./_-]+\))?!?: \S.*")


def complaint(message: str) -> str | None:
    """What is wrong with a commit message in one line, or None. Git's own merge and revert subjects pass."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return None
    if not _FORM.fullmatch(subject):
        return f"the first line must read 'type(scope): subject' (types: {', '.join(TYPES)}); got {subject!r}"
    if len(subject) > LONGEST:
        return f"the first line has {len(subject)} characters; {LONGEST} at most"
    if len(lines) > 1 and lines[1].strip():
        return "the second line must be empty"
    return None


if __name__ == "__main__":
    wrong = complaint(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if wrong:
        sys.exit(f"commit message: {wrong}")
