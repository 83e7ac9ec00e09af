"""Accepts a commit message in the form of Conventional Commits 1.0: ``type(scope)!: subject``.

Usage: check_commit_message.py FILE               one message; git's commit-msg hook passes the file
       check_commit_message.py --since-last-tag   the titles of all commits since the last tag, as 'make lint' does
"""

import re
import subprocess
import sys
from pathlib import Path

TYPES = ("build", "chore", "ci", "docs", "feat", "fix", "perf", "refactor", "revert", "style", "test")
LONGEST = 72
BEFORE_THE_FIRST_TAG = "2026-12-01T00:00:00+00:00"
"""Until something is tagged, titles of commits from this moment on are checked."""
_FORM = re.compile(rf"(?:{'|'.join(TYPES)})(?:\([a-z0-9./_,-]+\))?!?: \S.*")


def complaint(message: str) -> str | None:
    """What is wrong with a commit message in one line, or None. Git's own merge and revert subjects pass."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return None
    if not _FORM.fullmatch(subject):
        return f"the first line must read 'type(scope): subject' (types: {', '.join(TYPES)}); got {subject!r}"
    if len(subject) > LONGEST:
        return f"the first line has {len(subject)} characters; {LONGEST} at most: {subject!r}"
    if subject.endswith("."):
        return f"the first line must not end with a full stop: {subject!r}"
    if len(lines) > 1 and lines[1].strip():
        return "the second line must be empty"
    return None


def titles_since_last_tag(repository: Path) -> list[tuple[str, str]]:
    """(short hash, title) of each commit since the last tag, without merges; nothing outside a git checkout."""
    git = ["git", "-C", str(repository)]
    if subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=False).returncode:
        return []
    tag = subprocess.run([*git, "describe", "--tags", "--abbrev=0"], capture_output=True, text=True, check=False)
    chosen = [f"{tag.stdout.strip()}..HEAD"] if tag.returncode == 0 else [f"--since={BEFORE_THE_FIRST_TAG}"]
    log = [*git, "log", "--no-merges", "--format=%h %s", *chosen]
    lines = subprocess.run(log, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(commit, title) for commit, _, title in (line.partition(" ") for line in lines)]


def main(arguments: list[str]) -> int:
    """Check what the arguments name; prints one line for each wrong message."""
    if arguments == ["--since-last-tag"]:
        titles = titles_since_last_tag(Path.cwd())
        wrong = [f"{commit}: {problem}" for commit, title in titles if (problem := complaint(title))]
    elif len(arguments) == 1 and not arguments[0].startswith("-"):
        problem = complaint(Path(arguments[0]).read_text(encoding="utf-8"))
        wrong = [problem] if problem else []
    else:
        wrong = ["give the file of one message, or --since-last-tag"]
    for line in wrong:
        print(f"commit message: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
