"""The house rules that a reader relies on, each checked on the sources as they are."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import failwise
from failwise.cli import VERBS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE = 500
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
HEAVY = ("torch", "metaworld", "mujoco", "transformers", "pandas", "matplotlib", "scipy")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def loaded_by(code: str) -> set[str]:
    """The top-level packages that are loaded after some code ran in a fresh interpreter."""
    probe = f"import sys, io\nreal = sys.stdout\nsys.stdout = io.StringIO()\n{code}\n"
    probe += "print(*{name.partition('.')[0] for name in sys.modules}, file=real)"
    done = run("-c", probe)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_import_contract_is_kept() -> None:
    done = run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_every_room_is_in_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rooms = {
        f"failwise.{path.stem}"
        for path in (ROOT / "src" / "failwise").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    }
    assert rooms <= set(contract["layers"]), "a room outside the contract may import anything"


@pytest.mark.parametrize("code", ["import failwise", "from failwise.cli import main; main(['--help'])"])
def test_nothing_heavy_loads_before_it_is_needed(code: str) -> None:
    assert not loaded_by(code).intersection([*HEAVY, "tyro", "rich"])


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_help_of_a_verb_loads_no_torch(verb: str) -> None:
    code = f"from failwise.cli import main\ntry: main([{verb!r}, '--help'])\n"
    code += "except SystemExit as end: assert not end.code"
    assert not loaded_by(code).intersection(HEAVY)


def test_help_takes_less_than_half_a_second() -> None:
    # Processor time, as the tests share the machine; the best of three, as a cold cache is not the claim.
    code = "import os; from failwise.cli import main; main(['--help']); print(sum(os.times()[:2]))"
    assert min(float(run("-c", code).stdout.split()[-1]) for _ in range(3)) < 0.5


def unsafe(tree: ast.AST) -> list[str]:
    """Every import or call in a module that could read or write a pickle."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            allowing = any(k.arg == "allow_pickle" and not _is(k.value, False) for k in node.keywords)
            if name in ("torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle") or allowing:
                found.append(ast.unparse(node))
    return found


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import dump",
        "torch.load('x')",
        "np.load('x', allow_pickle=True)",
        "import dill.x",
    ],
)
def test_the_pickle_search_finds_pickles(code: str) -> None:
    assert unsafe(ast.parse(code))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not unsafe(tree), "weights and arrays are safetensors, tables parquet, the rest JSON"
    assert ast.get_docstring(tree), "say in one sentence what this file is for"
    assert len(text.splitlines()) <= LONGEST_FILE, "too long to read in one sitting"
    assert path.stem not in {"utils", "helpers", "misc", "common"}, "name the file after what is in it"


def test_the_version_is_one() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert failwise.__version__ == declared == version("failwise")


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("constraints.txt", []),
        ("constraints-maniskill.txt", ["maniskill", "text", "test"]),
        ("constraints-libero.txt", ["libero", "text", "test"]),
        ("constraints-lerobot.txt", ["lerobot", "test"]),
    ],
    ids=["main", "maniskill", "libero", "lerobot"],
)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(file: str, own: list[str]) -> None:
    """ManiSkill, LIBERO and LeRobot have environments and pins of their own; Trackio does not allow the main pins."""
    lines = (line.partition("==") for line in (ROOT / file).read_text().splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, _, version in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = own or [name for name in extras if name not in ("maniskill", "libero", "lerobot", "trackio")]
    wanted = project["dependencies"] + [line for name in chosen for line in extras[name]]
    for requirement in map(Requirement, wanted):
        if requirement.name != "failwise":  # an extra that names another one
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


@pytest.mark.parametrize("name", failwise.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(failwise, name) is not None


def test_a_name_that_is_not_public_says_which_are() -> None:
    with pytest.raises(AttributeError, match=r"'nonsense'.*EpisodeStore"):
        _ = failwise.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        ("feat(store): commit by rename", True),
        ("fix!: refuse two arms of one name\n\nThey overwrote each other.", True),
        ("Merge branch 'x'", True),
        ("# a comment\nbuild: pin torch", True),
        ("added stuff", False),
        ("feature: x", False),
        ("feat:", False),
        ("feat: x\nno empty line", False),
        ("feat: " + "x" * 100, False),
        ("", False),
    ],
)
def test_the_form_of_a_commit_message(message: str, accepted: bool, tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_text(message)
    done = run("scripts/check_commit_message.py", str(file))
    assert (done.returncode == 0) is accepted, done.stderr
    assert accepted or done.stderr.startswith("commit message:")


def _commit(repository: Path, title: str, **when: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.hooksPath=/dev/null"]
    command = ["git", "-C", str(repository), *identity, "commit", "-q", "--allow-empty", "-m", title]
    subprocess.run(command, check=True, env={**os.environ, **when})


def test_titles_are_checked_since_the_last_tag(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "check_commit_message.py")

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script, "--since-last-tag"], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert check().returncode == 0, "nothing to check outside a checkout"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    _commit(tmp_path, "a title from before titles were checked", GIT_COMMITTER_DATE="2026-11-01T00:00:00+00:00")
    assert check().returncode == 0
    _commit(tmp_path, "improved things")
    _commit(tmp_path, "fix(envs): " + "x" * 62)
    lines = check().stderr.splitlines()
    assert len(lines) == 2 and "must read 'type(scope): subject'" in lines[1] and "73 characters; 72" in lines[0]
    subprocess.run(["git", "-C", str(tmp_path), "tag", "v1"], check=True)
    assert check().returncode == 0
    _commit(tmp_path, "feat: add a thing.")
    assert "full stop" in check().stderr


def test_the_documented_order_of_packages_is_that_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.removeprefix("failwise.") for layer in contract["layers"]]
    section = (ROOT / "docs" / "architecture.md").read_text().split("## The rooms")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name.strip("` /") for cell in cells for name in cell.split(",")]
    assert documented == layers
