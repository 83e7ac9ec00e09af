"""What people say of episodes goes beside them, and is read with them."""

from __future__ import annotations

import pytest

from failwise.errors import StoreError
from failwise.store import EpisodeStore, check, compact, merge
from failwise.types import FailureEvent

from .samples import record, sample_id

DROPPED = FailureEvent(mode="dropped", stage="lifted", onset_step=7, source="labelled", evidence="seen by a person")
SLIPPED = FailureEvent(mode="slipped", onset_step=3, source="labelled")


@pytest.fixture
def store(tmp_path):
    made = EpisodeStore(tmp_path / "run")
    for seed in range(3):
        record(made, seed)
    return made


def said(store, seed):
    name = sample_id(seed)
    (listed,) = (m.failure_events for m in store.metas() if m.episode_id == name)
    assert listed == store.read(name).meta.failure_events
    return listed


def test_labels_are_read_with_the_episode_by_everyone_and_can_be_taken_back(store):
    before = {p: p.read_bytes() for p in (store.path / sample_id(1)).iterdir()}
    store.label(sample_id(1), DROPPED)
    store.label(sample_id(1), DROPPED)
    store.label(sample_id(1), SLIPPED)
    for seen in (store, EpisodeStore(store.path, create=False)):
        assert said(seen, 1) == (DROPPED, SLIPPED)
        assert said(seen, 0) == ()
    assert {p: p.read_bytes() for p in (store.path / sample_id(1)).iterdir()} == before, "the episode did not change"
    assert check(store).sound
    store.unlabel(sample_id(1), DROPPED)
    assert said(EpisodeStore(store.path), 1) == said(store, 1) == (SLIPPED,)
    store.label(sample_id(1), DROPPED)
    assert said(store, 1) == (SLIPPED, DROPPED)


def test_another_process_sees_a_new_label_at_once(store):
    other = EpisodeStore(store.path)
    assert said(other, 0) == ()
    store.label(sample_id(0), SLIPPED)
    assert said(other, 0) == (SLIPPED,)


def test_a_torn_line_costs_itself_only(store):
    store.label(sample_id(0), SLIPPED)
    with (store.path / "labels.jsonl").open("a") as file:
        file.write('{"episode": "x", "ev')
    assert said(store, 0) == (SLIPPED,)
    store.label(sample_id(2), DROPPED)
    assert said(EpisodeStore(store.path), 2) == (DROPPED,)
    assert said(store, 0) == (SLIPPED,)


def test_labels_survive_packing_and_joining(store, tmp_path):
    store.label(sample_id(2), DROPPED)
    compact(store)
    assert said(store, 2) == (DROPPED,)
    into = EpisodeStore(tmp_path / "all")
    merge([store], into)
    assert said(into, 2) == (DROPPED,)


def test_joining_again_does_not_bring_back_what_was_taken_back(store, tmp_path):
    into = EpisodeStore(tmp_path / "into")
    event = FailureEvent(mode="slip", onset_step=1, source="labelled")
    store.label(sample_id(0), event)
    merge([store], into)
    assert into.labels(sample_id(0)) == (event,)
    into.unlabel(sample_id(0), event)
    merge([store], into)
    assert EpisodeStore(into.path).labels(sample_id(0)) == ()
    into.label(sample_id(0), event)
    assert into.labels(sample_id(0)) == (event,), "a person can say it again"


def test_only_what_is_there_can_be_labelled(store):
    with pytest.raises(StoreError, match="no episode 'nobody'"):
        store.label("nobody", DROPPED)
    assert not (store.path / "labels.jsonl").exists()
