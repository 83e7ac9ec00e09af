"""Failures on purpose: they really fail, their recoveries really work, and nothing is lost or made twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from failwise.envs.tiny import TinyEnv, make
from failwise.errors import EpisodeError, FailwiseError, SetupError
from failwise.generate import (
    GenerateOptions,
    Request,
    cells_of,
    coverage,
    failures,
    generate,
    read_attempts,
    read_requests,
)
from failwise.generate.attempts import FILE
from failwise.generate.failures import EPISODES, RECOVERIES
from failwise.generate.modes import Perturbation
from failwise.generate.plan import Plan, Script
from failwise.seeds import GENERATE
from failwise.store import EpisodeStore, check
from failwise.types import Actor, Outcome

OPTIONS = GenerateOptions(corrections=2, look_every=4, workers=1)


def requests(*modes: str, episodes: int = 4) -> list[Request]:
    return [Request(mode=mode, episodes=episodes) for mode in modes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generate")
    generate(cells_of(make("push"), requests("translation", "noop", "wrong_sequence")), out, OPTIONS)
    return out


def replay(env: TinyEnv, meta, actions: np.ndarray) -> bool:
    env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
    success = False
    for action in actions:
        success |= env.step(action)[-1]["success"]
    return success


def test_failures_fail_and_recoveries_succeed_when_replayed_from_the_start(made: Path) -> None:
    env, episodes, recoveries = make("push"), EpisodeStore(made / EPISODES), EpisodeStore(made / RECOVERIES)
    failed = [m for m in episodes.metas() if m.arm != "plan"]
    assert len(failed) >= 10
    assert {m.outcome for m in failed} <= {Outcome.FAILURE, Outcome.TIMEOUT}
    for meta in failed:
        assert meta.env_seed in GENERATE
        assert not replay(env, meta, episodes.read(meta.episode_id).actions())
    for meta in recoveries.metas():
        assert replay(env, meta, recoveries.read(meta.episode_id).actions()), "a recovery that is kept was seen to work"


def test_a_stage_ends_when_its_condition_holds_not_when_the_plan_says_so(made: Path) -> None:
    store = EpisodeStore(made / EPISODES)
    for meta in (m for m in store.metas() if m.arm != "plan"):
        conditions = store.read(meta.episode_id).conditions()
        *passed, (due, (start, _)) = sorted(meta.extra["stages"].items(), key=lambda stage: stage[1])
        assert all(conditions[name][stop - 1] and not conditions[name][: stop - 1].any() for name, (_, stop) in passed)
        assert not np.asarray(conditions[due])[start:].any(), "what is due was not reached"


def test_a_failure_says_what_was_done_and_a_recovery_where_it_begins(made: Path) -> None:
    episodes, recoveries = EpisodeStore(made / EPISODES), EpisodeStore(made / RECOVERIES)
    listed = 0
    for meta in episodes.metas():
        if meta.arm == "plan":
            continue
        (event,) = meta.failure_events
        done = meta.extra["perturbation"]
        assert (event.mode, event.stage, event.source) == (done["mode"], done["stage"], "injected")
        actors = episodes.read(meta.episode_id).actors()
        assert set(actors[: event.onset_step]) <= {Actor.EXPERT}
        assert set(actors[event.onset_step :]) == {Actor.PERTURBATION}
        plan = episodes.read(f"tiny.push--plan--{meta.env_seed}").actions()
        np.testing.assert_array_equal(
            episodes.read(meta.episode_id).actions()[: event.onset_step], plan[: event.onset_step]
        )
        listed += len(meta.extra["corrections"])
    assert listed == len(recoveries) > 0
    for meta in recoveries.metas():
        correction = meta.extra["correction"]
        episode = recoveries.read(meta.episode_id)
        assert meta.extra["takeover"] == correction["at"]
        assert set(episode.actors()[correction["at"] :]) == {Actor.RECOVERY}
        assert meta.n_steps == correction["at"] + correction["moved"] + correction["after"]
        start = episode.states()[correction["at"], :2]
        np.testing.assert_allclose(start, correction["hand"][:2], atol=1e-6)
        arrived = episode.states()[min(correction["at"] + correction["moved"], meta.n_steps - 1), :2]
        np.testing.assert_allclose(arrived - start, correction["delta"][:2], atol=0.05)


def test_pictures_are_those_of_their_moment(made: Path) -> None:
    episodes, env = EpisodeStore(made / EPISODES), make("push")
    meta = next(m for m in episodes.metas() if m.arm != "plan")
    episode = episodes.read(meta.episode_id)
    observation, _ = env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
    pictures = dict(zip(episode.look_steps().tolist(), episode.frames("top"), strict=True))
    assert len(pictures) == -(-meta.n_steps // OPTIONS.look_every)
    for step, action in enumerate(episode.actions()):
        if step in pictures:
            np.testing.assert_array_equal(pictures[step], observation.images["top"])
        observation, *_ = env.step(action)


def test_the_store_is_sound_and_the_counts_add_up(made: Path) -> None:
    assert check(EpisodeStore(made / EPISODES)).sound
    attempts = read_attempts(made)
    cells = cells_of(make("push"), requests("translation", "noop", "wrong_sequence"))
    rows = coverage(cells, attempts)
    assert sum(
        n["kept"] + n["unmended"] + n["harmless"] + n["no_plan"] + n["inapplicable"] + n["error"] for _, n in rows
    )
    assert len({(a.cell, a.seed, a.draw) for a in attempts}) == len(attempts), "no attempt is made twice"
    kept = [m for m in EpisodeStore(made / EPISODES).metas() if m.arm != "plan"]
    assert len(kept) == sum(a.result in ("kept", "unmended") for a in attempts)


def test_another_change_is_drawn_where_one_did_no_harm(tmp_path: Path) -> None:
    cells = cells_of(make("push"), requests("translation", "noop", episodes=6))
    attempts = generate(cells, tmp_path / "thrice", OPTIONS)
    layouts: dict[tuple[str, int], list[str]] = {}
    draws: dict[tuple[str, int], list[int]] = {}
    for attempt in attempts:
        layouts.setdefault((attempt.cell, attempt.seed), []).append(attempt.result)
        draws.setdefault((attempt.cell, attempt.seed), []).append(attempt.draw)
    assert all(numbers[0] == 0 and numbers == sorted(set(numbers)) for numbers in draws.values())
    assert max(max(numbers) for numbers in draws.values()) < OPTIONS.draws
    assert all(result == "harmless" for results in layouts.values() for result in results[:-1])
    assert any(len(results) > 1 and results[-1] == "kept" for results in layouts.values())

    by_name = {cell.name: cell for cell in cells}
    numbers = {(a.cell, a.seed): a.draw for a in attempts if a.result == "kept"}
    failed = [m for m in EpisodeStore(tmp_path / "thrice" / EPISODES).metas() if m.arm != "plan"]
    for meta in failed:
        again = failures.drawn_again(by_name[meta.arm], meta.env_seed, numbers[meta.arm, meta.env_seed])
        assert meta.extra["perturbation"] == again.model_dump(mode="json")

    once = generate(cells, tmp_path / "once", replace(OPTIONS, draws=1))
    assert len({(a.cell, a.seed) for a in once}) == len(once)
    same = {(a.cell, a.seed) for a in once} & set(layouts)
    assert {(a.cell, a.seed): a.result for a in once if (a.cell, a.seed) in same} == {k: layouts[k][0] for k in same}


def test_what_is_the_same_each_time_is_tried_once_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "environment", lambda _: make("push"))
    (cell, *_) = cells_of(make("push"), requests("noop", episodes=3))
    (seed, *_) = failures.layouts_of(cell, 1, 0)
    scripts: list[Script] = []

    def same(plan: Plan, _: Perturbation) -> Script:
        scripts.append(Script.of(plan))
        return scripts[-1]

    monkeypatch.setattr(failures, "perturb", same)
    attempts = failures.make_failure(failures.AttemptItem(cell, seed), str(tmp_path), OPTIONS)
    assert [(a.result, a.draw) for a in attempts] == [("harmless", 0)]
    assert len(scripts) == OPTIONS.draws

    def other(plan: Plan, _: Perturbation) -> Script:
        scripts.append(replace(Script.of(plan), hands=scripts[-1].hands + 1e-6))
        return scripts[-1]

    monkeypatch.setattr(failures, "perturb", other)
    attempts = failures.make_failure(failures.AttemptItem(cell, seed), str(tmp_path), OPTIONS)
    assert [(a.result, a.draw) for a in attempts] == [("harmless", n) for n in range(OPTIONS.draws)]


def test_a_layout_whose_record_was_cut_off_is_tried_again_from_its_first_draw(tmp_path: Path) -> None:
    def line(seed: int, number: int, result: str) -> str:
        return json.dumps(
            {"env_id": "tiny/push", "cell": "noop.success", "seed": seed, "draw": number, "result": result}
        )

    whole = [line(1, 0, "harmless"), line(1, 1, "kept")]
    half = [line(2, 0, "harmless"), line(2, 1, "harmless"), line(2, 2, "kept")[:40]]
    (tmp_path / FILE).write_text("\n".join([*whole, *half]))
    assert [(a.seed, a.draw) for a in read_attempts(tmp_path, repair=False)] == [(1, 0), (1, 1)]
    assert [(a.seed, a.draw) for a in read_attempts(tmp_path)] == [(1, 0), (1, 1)]
    assert (tmp_path / FILE).read_text() == "\n".join(whole) + "\n"


def test_a_stopped_run_goes_on_to_the_same_record(made: Path, tmp_path: Path) -> None:
    cells = cells_of(make("push"), requests("translation", "noop", "wrong_sequence"))
    half = [cell.model_copy(update={"wanted": min(cell.wanted, 1)}) for cell in cells]
    generate(half, tmp_path, OPTIONS)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"env_id": "tiny/push", "cel')  # what a kill leaves
    generate(cells, tmp_path, OPTIONS)
    again = {a.cell: sorted(x.seed for x in read_attempts(tmp_path) if x.cell == a.cell) for a in read_attempts(made)}
    assert again == {
        a.cell: sorted(x.seed for x in read_attempts(made) if x.cell == a.cell) for a in read_attempts(made)
    }
    for name in EpisodeStore(made / EPISODES).ids():
        one, other = (EpisodeStore(root / EPISODES).read(name) for root in (made, tmp_path))
        np.testing.assert_array_equal(one.actions(), other.actions())
        assert one.meta.extra == other.meta.extra
    before = (tmp_path / FILE).read_text()
    generate(cells, tmp_path, OPTIONS)
    assert (tmp_path / FILE).read_text() == before, "nothing is left to do"


class Helpless(TinyEnv):
    """It knows the way from the start only: later the expert stands still, and the hand cannot be led."""

    def expert(self) -> np.ndarray:
        action = super().expert()
        return action if self.planning else np.zeros_like(action)

    def nudge(self, error_6: np.ndarray) -> np.ndarray:
        action = super().nudge(error_6)
        return action if self.planning else np.zeros_like(action)

    planning = True

    def restore(self, snapshot):
        self.planning = False
        return super().restore(snapshot)

    def reset(self, **options):
        self.planning = True
        return super().reset(**options)


class Crashing(TinyEnv):
    """A simulator that crashes in perturbed episodes now and then."""

    def step(self, action):
        if self._world.steps == 20 and self._world.x > 0:
            raise EpisodeError("the physics exploded")
        return super().step(action)


def test_a_recovery_that_was_not_seen_to_work_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = Helpless("push")
    monkeypatch.setattr(failures, "environment", lambda _: env)
    attempts = generate(cells_of(env, requests("noop")), tmp_path, OPTIONS)
    assert {a.result for a in attempts} == {"unmended", "harmless"}
    assert len(EpisodeStore(tmp_path / RECOVERIES)) == 0
    assert len({(a.cell, a.seed) for a in attempts}) == 4 * OPTIONS.patience, "it gives up when its patience is used up"


def test_a_cell_that_never_gives_a_failure_is_left_early_and_one_that_does_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "environment", lambda _: Helpless("push"))
    (cell, *_) = cells_of(make("push"), requests("noop", episodes=9))
    wanted = cell.model_copy(update={"wanted": 5})
    never = generate([wanted], tmp_path / "never", OPTIONS)
    assert len({a.seed for a in never}) == failures.HOPELESS * OPTIONS.patience
    monkeypatch.setattr(failures, "environment", lambda _: make("push"))
    attempts = generate([wanted], tmp_path / "often", OPTIONS)
    assert sum(a.result == "kept" for a in attempts) == 5


def test_a_crash_costs_one_attempt_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = Crashing("push")
    monkeypatch.setattr(failures, "environment", lambda _: env)
    attempts = generate(cells_of(make("push"), requests("noop", episodes=6)), tmp_path, OPTIONS)
    results = [a.result for a in attempts]
    assert "error" in results
    assert "kept" in results
    assert all(a.error == "the physics exploded" for a in attempts if a.result == "error")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(mode="pushed", episodes=1), "unknown failure mode 'pushed'"),
        (Request(mode="noop", episodes=1, stages=("grasp",)), "has no stage 'grasp'; its stages are near_puck"),
        (
            Request(mode="translation", episodes=1, axes=("z",)),
            "translation acts along x, y in tiny/push, not along 'z'",
        ),
        (Request(mode="slip", episodes=1), "slip changes nothing in the plans of tiny/push"),
        (Request(mode="translation", episodes=1, magnitude=(1.5, 2)), "leaves the workspace"),
    ],
)
def test_bad_requests_are_told_before_anything_runs(request_: Request, message: str) -> None:
    with pytest.raises(FailwiseError, match=message):
        cells_of(make("push"), [request_])


def test_a_cell_is_asked_for_once() -> None:
    with pytest.raises(SetupError, match="asked for twice"):
        cells_of(make("push"), requests("noop", "noop"))


class Handless:
    """An environment without a hand to lead."""

    def __init__(self) -> None:
        self.spec = make("push").spec


def test_an_environment_without_a_hand_is_refused() -> None:
    with pytest.raises(SetupError, match="tiny/push has no hand that can be led"):
        cells_of(Handless(), requests("noop"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode: slip", "must hold a list of requests"),
        ("- {mode: slip}", "entry 1, episodes: Field required"),
        ("- {mode: slip, episodes: 1, colour: red}", "entry 1, colour: Extra inputs"),
        ("- {mode: slip, episodes: -1}", "entry 1, episodes"),
        ("- [", "cannot be read as YAML"),
    ],
)
def test_a_spec_that_is_none_is_told_with_entry_and_field(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SetupError, match=message):
        read_requests(path)
