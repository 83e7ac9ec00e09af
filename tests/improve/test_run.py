"""The whole job on the environment without a simulator: every stage, resuming, refusals, and the chosen agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from failwise.agent import load_agent
from failwise.errors import CheckpointError, DataError, SetupError, UnknownNameError
from failwise.improve import ImproveOptions, improve
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import AFILTraining, CriticOptions, FitOptions
from failwise.policies.compact import CompactConfig
from failwise.policies.critic_config import CriticConfig
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore
from failwise.tracking import Run, tracked
from small_trainings import fit_precision
from tracking.event_files import scalars

SMALL = CompactConfig(
    cameras={}, width=32, attention_heads=2, conv_channels=(8, 8, 8), backbone_layers=1, expert_layers=1, horizon=4,
    execute=4, denoising_steps=3,
)  # fmt: skip
OPTIONS = ImproveOptions(
    episodes=12,
    validation_seeds=(2, 2),
    test_seeds=8,
    samples=(4,),
    guidance=(1.0,),
    heads=AFILTraining(
        fit=FitOptions(steps=12, batch=8, copies=2, warmup=2, learning_rate=1e-4, precision=fit_precision()),
        negative_batch=2,
    ),
    critic=CriticOptions(
        config=CriticConfig(width=16, attention_heads=2, layers=1, members=2),
        steps=10,
        batch=16,
        precision=fit_precision(),
    ),
    workers=1,
    threads=1,
)
ENV = "parity/reach"  # every second layout is won and most others are lost, whatever was learned


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demos")
    items = [RolloutItem(ENV, s, s, "demos", "expert:mixed") for s in range(24)]
    collect(items, out, workers=1, options=RolloutOptions(look_every=2), quiet=True)
    return out


@pytest.fixture(scope="module")
def base(demos, tmp_path_factory) -> Path:
    """A policy that succeeds in every second layout, and hardly anywhere else."""
    out = tmp_path_factory.mktemp("base")
    fit = FitOptions(
        steps=60, batch=32, copies=4, warmup=20, learning_rate=3e-3, shift=0, save_every=0, ema=0.98,
        precision=fit_precision(),
    )  # fmt: skip
    return train_bc(demos, out, BCOptions(config=SMALL, fit=fit))


@pytest.fixture(scope="module")
def run(base, demos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with tracked(["tensorboard"], Run("improve", out)):
        return improve([ENV], base, out, replace(OPTIONS, demos=demos, rounds=2))


def test_the_report_begins_with_what_was_improved(run):
    told = json.loads((run / "proof" / "comparison.json").read_text())["against"]
    assert [one["arm"].startswith("improved") for one in told] == sorted(
        (one["arm"].startswith("improved") for one in told), reverse=True
    )
    assert told[0]["arm"] == "improved-1" and len(told) > 2


def test_every_stage_leaves_its_result(run):
    for part in (
        "network/config.json",
        "critic/critic.json",
        "choice.json",
        "agent/agent.json",
        "validation",
        "episodes",
    ):
        assert (run / "round1" / part).exists() and (run / "round2" / part).exists()
    assert (run / "extra-2" / "config.json").is_file()
    assert (run / "proof" / "report.html").is_file()


def told_once(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All curves, none of which has two values at a step."""
    found = scalars(run)
    assert {tag: len({step for step, _ in c}) for tag, c in found.items()} == {tag: len(c) for tag, c in found.items()}
    return found


def test_no_two_trainings_and_no_two_arms_are_told_as_one(run):
    found = told_once(run)
    for part in ("round1/network", "round2/network"):
        assert len(found[f"{part}/heads/loss"]) == 12 and len(found[f"{part}/critic/loss"]) == 10
    assert len(found["control: extra training/loss"]) == 24
    assert len(found["round2/episodes/round2/success_rate"]) == 12
    assert len(found["proof/episodes/improved-2/success_rate"]) == 8
    comparison = json.loads((run / "proof" / "comparison.json").read_text())
    rates = {arm["arm"]: arm["pooled"]["rate"]["point"] for arm in comparison["arms"]}
    assert {arm: found[f"summary/proof/{arm}/success"] for arm in rates} == {
        arm: [(0, pytest.approx(rate))] for arm, rate in rates.items()
    }


def test_all_arms_ran_on_the_same_seeds(run):
    comparison = json.loads((run / "proof" / "comparison.json").read_text())
    arms = {a["arm"] for a in comparison["arms"]}
    assert {"base", "extra-2", "c1", "improved-1", "improved-2"} <= arms
    seeds: dict[str, set[int]] = {}
    for meta in EpisodeStore(run / "proof" / "episodes").metas():
        seeds.setdefault(meta.arm, set()).add(meta.env_seed)
    assert all(s == set(range(300_000, 300_008)) for s in seeds.values())


def test_seeds_of_the_stages_are_disjoint(run):
    used = [
        {m.env_seed for m in EpisodeStore(run / part).metas()}
        for part in ("round1/episodes", "round2/episodes", "round1/validation", "round2/validation", "proof/episodes")
    ]
    assert sum(map(len, used)) == len(set().union(*used))


def test_controls_are_never_chosen(run):
    for number in (1, 2):
        choice = json.loads((run / f"round{number}" / "choice.json").read_text())
        assert choice["chosen"] != "c1"
        assert "c1" not in {s["name"] for s in choice["standings"]}


def test_the_second_round_collects_with_the_first_rounds_agent(run):
    agents = {m.provenance.agent for m in EpisodeStore(run / "round2" / "episodes").metas()}
    assert agents == {str(run / "round1" / "agent")}


def test_the_agent_is_complete_in_itself(run, tmp_path):
    moved = tmp_path / "elsewhere"
    (run / "agent").rename(moved)
    try:
        agent = load_agent(moved)
        from failwise.envs import make_env

        env = make_env(ENV)
        agent.begin(env, 0)
        observation, _ = env.reset(seed=1)
        assert agent.act(observation).actions.shape == (4, len(env.spec.action_low))
    finally:
        moved.rename(run / "agent")


def test_the_same_request_resumes_and_repeats_nothing(run, base, demos):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("meta.json")}
    weights = (run / "round1" / "network" / "model.safetensors").stat().st_mtime_ns
    improve([ENV], base, run, replace(OPTIONS, demos=demos, rounds=2))
    assert {p: p.stat().st_mtime_ns for p in run.rglob("meta.json")} == before
    assert (run / "round1" / "network" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_request_of_before_an_option_existed_is_resumed_with_its_default(run, base, demos):
    path = run / "request.json"
    request = json.loads(path.read_text())
    del request["heads"]["shared_layers"], request["heads"]["fit"]["shift"]
    path.write_text(json.dumps(request))
    other = replace(OPTIONS.heads, fit=replace(OPTIONS.heads.fit, shift=1))
    with pytest.raises(SetupError, match="another heads"):
        improve([ENV], base, run, replace(OPTIONS, demos=demos, rounds=2, heads=other))
    improve([ENV], base, run, replace(OPTIONS, demos=demos, rounds=2))


def test_another_request_in_the_same_folder_is_refused(run, base, demos):
    with pytest.raises(SetupError, match="another episodes"):
        improve([ENV], base, run, replace(OPTIONS, demos=demos, episodes=13))
    other = replace(OPTIONS.heads, fit=replace(OPTIONS.heads.fit, steps=13))
    with pytest.raises(SetupError, match="another heads"):
        improve([ENV], base, run, replace(OPTIONS, demos=demos, rounds=2, heads=other))
    with pytest.raises(SetupError, match="another env_ids"):
        improve(["tiny/push"], base, run, replace(OPTIONS, demos=demos))


def test_a_fixed_candidate_skips_validation(base, tmp_path):
    run = improve([ENV], base, tmp_path / "run", replace(OPTIONS, candidate="best-of-4"))
    assert not (run / "round1" / "validation").exists()
    assert json.loads((run / "round1" / "choice.json").read_text())["chosen"] == "best-of-4"
    with pytest.raises(UnknownNameError, match="best-of-4"):
        improve([ENV], base, tmp_path / "other", replace(OPTIONS, candidate="best-of-5", episodes=11))


def test_recoveries_are_verified_learned_from_and_offered(base, demos, tmp_path):
    options = replace(OPTIONS, demos=demos, recoveries="expert", extra="none", test_offset=50)
    with tracked(["tensorboard"], Run("improve", tmp_path / "run")):
        run = improve([ENV], base, tmp_path / "run", options)
    assert {"round1/network/heads/loss", "round1/recovery_network/heads/loss"} <= set(told_once(run))
    choice = json.loads((run / "round1" / "choice.json").read_text())
    verified = [m for m in EpisodeStore(run / "round1" / "recoveries").metas() if m.outcome == "success"]
    assert choice["collected"]["verified_recoveries"] == len(verified) > 0
    failed = {m.episode_id for m in EpisodeStore(run / "round1" / "episodes").metas() if m.outcome != "success"}
    tried = EpisodeStore(run / "round1" / "recoveries").metas()
    assert {m.extra["recovers"] for m in tried} == failed and len(tried) >= 2 * len(failed)
    assert {"recovery", "recovery-gated"} <= {s["name"] for s in choice["standings"]}
    seeds = {m.env_seed for m in EpisodeStore(run / "proof" / "episodes").metas()}
    assert seeds == set(range(300_050, 300_058)), "later seeds of the test range, as asked"
    assert {"c2", "gated-1"} <= {s["name"] for s in choice["standings"]}, (
        "those without an expert stay in the comparison"
    )


def test_a_later_round_trains_only_the_kind_that_was_chosen(base, demos, tmp_path):
    options = replace(
        OPTIONS, demos=demos, recoveries="expert", extra="one_round", candidate="recovery-gated", rounds=2
    )
    run = improve([ENV], base, tmp_path / "run", options)
    assert (run / "round1" / "network").is_dir() and (run / "round1" / "recovery_network").is_dir()
    assert not (run / "round2" / "network").exists() and (run / "round2" / "recovery_network").is_dir()
    assert (run / "round2" / "recoveries").is_dir()
    assert (run / "extra-1").is_dir() and not (run / "extra-2").exists()
    # One round's extra steps are no match for the agent of two rounds.
    against = json.loads((run / "proof" / "against_extra-1.json").read_text())
    assert {one["arm"] for one in against["against"]} & {"improved-1", "improved-2"} == {"improved-1"}


def test_demonstrations_of_other_tasks_are_rehearsed(base, demos, tmp_path):
    from failwise.improve.fitting import load_compact, load_demos

    both = tmp_path / "demos"
    for task in ("parity/reach", "parity/push"):
        items = [RolloutItem(task, s, s, "demos", "expert:mixed") for s in range(4)]
        collect(items, both, workers=1, options=RolloutOptions(look_every=2), quiet=True)
    data = load_demos(replace(OPTIONS, demos=both), load_compact(base))
    assert {m.env_id for m in data.episodes} == {"parity/reach", "parity/push"}


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no policy folder"):
        improve([ENV], tmp_path / "nothing", tmp_path / "run", OPTIONS)


def test_a_policy_of_another_suite_is_refused(base, tmp_path):
    with pytest.raises(CheckpointError, match="metaworld/pick-place"):
        improve(["metaworld/pick-place"], base, tmp_path / "run", OPTIONS)


def test_only_failures_or_only_successes_are_told():
    from failwise.improve import run as module

    with pytest.raises(DataError, match=r"all 2 .* succeeded"):
        module._both_outcomes([_meta("success"), _meta("success")])
    with pytest.raises(DataError, match=r"all 2 .* failed"):
        module._both_outcomes([_meta("timeout"), _meta("failure")])


def _meta(outcome):
    from failwise.types import EpisodeMeta

    return EpisodeMeta(
        episode_id="x", env_id=ENV, task="reach", instruction="go", env_seed=0, policy_seed=0, outcome=outcome,
        success_once=outcome == "success", first_success_step=0 if outcome == "success" else None, n_steps=1,
        step_limit=1, control_hz=1.0,
    )  # fmt: skip
