"""``failwise compare``: recorded episodes, wherever they lie."""

from __future__ import annotations

import pytest

from failwise.cli.compare import main
from failwise.cli.store import main as store_main
from failwise.errors import DataError, SetupError
from failwise.evaluate import Comparison, evaluate
from failwise.evaluate.statistics import mcnemar_exact, pairs_needed
from failwise.rollout import RolloutItem, collect


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, agent in (("noise", "random"), ("expert", "expert")):
        todo = [RolloutItem(f"tiny/{t}", s, s, "policy", agent) for s in range(8) for t in ("push", "reach")]
        collect(todo, folder / name, workers=1, quiet=True)
    return folder


def test_two_folders_of_one_arm_name_are_compared_under_names_of_their_own(runs, tmp_path, capsys):
    assert main([f"base={runs / 'noise'}", f"new={runs / 'expert'}", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "new is better than base: +100.0 points" in said
    assert "n = 16 pairs" in said
    found = Comparison.from_json((tmp_path / "comparison.json").read_text())
    assert found.baseline == "base"
    assert found.against[0].pooled.p_value == mcnemar_exact(0, 16).p_value
    assert "tiny/push" in said
    assert "tiny/reach" in said


def test_the_baseline_can_be_named(runs, capsys):
    assert main([f"base={runs / 'noise'}", f"new={runs / 'expert'}", "--baseline", "new"]) == 0
    assert "base is worse than new" in capsys.readouterr().out


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """What 'failwise evaluate --stop-early' leaves; the baseline is not the first arm of the alphabet."""
    folder = tmp_path_factory.mktemp("early") / "runs" / "proof"
    arms = {"noise": "random:3", "able": "expert"}
    evaluate(["tiny/push", "tiny/reach"], arms, range(300_000, 300_010), folder, workers=1, stop_early=True)
    return folder


@pytest.mark.parametrize("place", ["episodes", ".", "..", "merged"])
def test_episodes_of_a_run_that_was_stopped_early_are_tested_accordingly(proof, place, tmp_path, capsys):
    folder = proof / place
    if place == "merged":
        folder = tmp_path / "merged"
        assert store_main(["merge", str(proof / "episodes"), "--into", str(folder)]) == 0
    assert main([str(folder), "--baseline", "noise"]) == 0
    assert "anytime-valid sign test" in capsys.readouterr().out


def test_the_baseline_is_that_of_the_runs_own_evaluation_or_has_to_be_named(proof, tmp_path, capsys):
    assert main([str(proof)]) == 0
    assert "able is better than noise" in capsys.readouterr().out
    assert store_main(["merge", str(proof / "episodes"), "--into", str(tmp_path / "merged")]) == 0
    with pytest.raises(SetupError, match="has the arms able, noise: say which one is the --baseline"):
        main([str(tmp_path / "merged")])


def test_planning_for_next_to_nothing_takes_no_time(capsys):
    assert main(["--plan", "0.01"]) == 0
    needed = int(capsys.readouterr().out.split()[0])
    assert needed == pytest.approx((1.959964 + 0.841621) ** 2 * 0.3 / 0.0001**2, rel=1e-5), "the normal approximation"


def test_planning_says_what_the_exact_power_says(capsys):
    assert main(["--plan", "5", "--discordant", "0.3"]) == 0
    assert f"{pairs_needed(0.05, 0.3)} pairs show a true difference of 5 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], SetupError, "name at least one folder"),
        (["{runs}/nowhere"], SetupError, "nowhere"),
        (["{runs}/noise"], DataError, "all 16 episodes are of the arm 'policy'"),
        (
            ["{runs}/noise", "{runs}/expert"],
            DataError,
            "all 32 episodes are of the arm 'policy'|two episodes of the arm",
        ),
        (["a={runs}/noise", "b={runs}/expert", "--baseline", "c"], DataError, "no episode of the arm 'c'"),
        (["a={runs}/noise", "b={runs}/expert", "--confidence", "2"], SetupError, "--confidence"),
        (["--plan", "0"], SetupError, "--plan 0 is no difference"),
        (["--plan", "5", "--discordant", "7"], SetupError, "--discordant 7 is no share"),
    ],
)
def test_bad_requests_are_one_line(runs, arguments, error, message):
    with pytest.raises(error, match=message):
        main([a.format(runs=runs) for a in arguments])
