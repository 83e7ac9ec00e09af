"""Options that several verbs share."""

from pathlib import Path

import pytest

from failwise.cli.options import existing_folder, parse_arms, writable_folder
from failwise.errors import SetupError


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("models/base,runs/improve/agent", {"base": "models/base", "agent": "runs/improve/agent"}),
        ("a=models/base, b=runs/x/agent", {"a": "models/base", "b": "runs/x/agent"}),
        ("runs/one/agent,runs/two/agent", {"agent": "runs/one/agent", "two-agent": "runs/two/agent"}),
        ("random:3,expert:mixed", {"random-3": "random:3", "expert-mixed": "expert:mixed"}),
        ("random,expert,", {"random": "random", "expert": "expert"}),
        ("./models/base/", {"base": "./models/base/"}),
    ],
)
def test_arms_keep_their_order_and_get_names(text: str, arms: dict[str, str]) -> None:
    assert list(parse_arms(text).items()) == list(arms.items())


@pytest.mark.parametrize("text", ["", ",", "=models/base", "base=", "a=x,a=y", "x/agent,x/agent,x/agent"])
def test_arms_that_are_not_arms_are_refused(text: str) -> None:
    with pytest.raises(SetupError, match="arm"):
        parse_arms(text)


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert list(writable_folder(tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SetupError, match="is a file, not a folder"):
        writable_folder(tmp_path / "file")
    with pytest.raises(SetupError, match="cannot write to --out"):
        writable_folder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_must_exist(tmp_path: Path) -> None:
    assert existing_folder(tmp_path, "--episodes", "episodes") == tmp_path
    with pytest.raises(SetupError, match=r"--episodes .*nowhere is not a folder; it should hold episodes"):
        existing_folder(tmp_path / "nowhere", "--episodes", "episodes")
