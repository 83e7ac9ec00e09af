"""Checkpoints: what is saved comes back bit for bit, and what is damaged says so in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_policy import HEADS, SENTENCES, noisy, observations, small_policy

from failwise.errors import CheckpointError, UnknownNameError
from failwise.policies import load_policy, shipped
from failwise.policies.compact import CompactVLA, weights_sha256


@pytest.fixture
def folder(tmp_path):
    policy = small_policy(prediction="epsilon", execute=2)
    policy.notes = {"trained_on": {"tiny/reach": 3}}
    policy.save(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_round_trip_is_exact(folder):
    policy, back = small_policy(prediction="epsilon", execute=2), load_policy(folder)
    assert back.config == policy.config and back.spec == policy.spec and back.spec.heads == HEADS
    assert back.notes == {"trained_on": {"tiny/reach": 3}}
    mine, theirs = policy.network.state_dict(), back.network.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    for name, value in vars(policy.normaliser).items():
        assert torch.equal(getattr(back.normaliser, name), value), name
    for a, b in zip(policy.text.batch(SENTENCES), back.text.batch(SENTENCES), strict=True):
        assert torch.equal(a, b)
    x, t = noisy(policy, 3, 2)
    one, two = (p.predict(x, t, p.encode(observations(3)), HEADS) for p in (policy, back))
    assert torch.equal(one, two)


def test_a_round_trip_is_exact_whatever_the_order_of_the_cameras(tmp_path):
    policy = small_policy(cameras={"top": (32, 32), "robot": (32, 32)})
    policy.save(tmp_path)
    back = load_policy(tmp_path)
    assert list(back.config.cameras) == list(policy.config.cameras)
    x, t = noisy(policy, 3, 2)
    one, two = (p.predict(x, t, p.encode(observations(3)), HEADS) for p in (policy, back))
    assert torch.equal(one, two)


def test_each_sentence_keeps_its_own_tokens(folder):
    policy, back = small_policy(), load_policy(folder)
    assert list(back.text.state_dict()) == sorted(SENTENCES)
    assert [len(v) for v in back.text.state_dict().values()] == [len(v) for v in policy.text.state_dict().values()]


def test_more_than_ten_sentences_keep_their_order(tmp_path):
    policy = small_policy()
    states = {f"sentence {i} of many, with 'quotes' and ünicode": torch.full((2, 384), float(i)) for i in range(25)}
    policy.text.load_state_dict(states)
    policy.save(tmp_path)
    back = load_policy(tmp_path).text.state_dict()
    assert all(torch.equal(back[s].float(), v) for s, v in states.items())


def test_saving_again_gives_the_same_bytes(folder, tmp_path):
    load_policy(folder).save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "text.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert weights_sha256(folder) == weights_sha256(tmp_path / "again") != ""
    assert not list(folder.glob("*.tmp"))
    assert weights_sha256(tmp_path) == ""


def test_new_heads_are_copies_of_the_acting_one():
    policy = small_policy(heads=("success", "failure"))
    more = policy.with_heads(("success", "failure", "own_success"))
    x, t = noisy(policy, 2, 1)
    before = policy.predict(x, t, policy.encode(observations(2)), ("success", "failure"))
    after = more.predict(x, t, more.encode(observations(2)), more.config.heads)
    torch.testing.assert_close(after[:2], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(after[2], before[0], rtol=0, atol=1e-5)
    assert policy.config.heads == ("success", "failure")


def test_heads_are_copied_and_not_shared():
    policy = small_policy(heads=("success",))
    before = {k: v.clone() for k, v in policy.network.state_dict().items()}
    more = policy.with_heads(("success", "failure"))
    with torch.no_grad():
        for parameter in more.network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in policy.network.state_dict().items())


def test_heads_can_be_dropped_and_reordered():
    policy = small_policy()
    fewer = policy.with_heads(("failure", "success"))
    x, t = noisy(policy, 1, 1)
    before = policy.predict(x, t, policy.encode(observations(1)), ("failure", "success"))
    after = fewer.predict(x, t, fewer.encode(observations(1)), ("failure", "success"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert fewer.config.heads[0] == "failure"


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no text": (lambda f: (f / "text.safetensors").unlink(), "text.safetensors is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "half the weights": (lambda f: truncate(f / "model.safetensors"), "is damaged"),
    "half the text": (lambda f: truncate(f / "text.safetensors"), "is damaged"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
    "half the config": (lambda f: truncate(f / "config.json"), "does not name a policy kind"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "does not name a policy kind"),
    "no kind": (lambda f: edit(f / "config.json", lambda a: a.pop("kind")), "does not name a policy kind"),
    "no shapes": (lambda f: edit(f / "config.json", lambda a: a.pop("config")), "is damaged"),
    "shapes of another kind": (
        lambda f: edit(f / "config.json", lambda a: a["config"].update(kind="pi0")), "kind 'pi0', not 'compact'",
    ),
    "a wider network": (
        lambda f: edit(f / "config.json", lambda a: a["config"].update(width=64)), "another architecture",
    ),
    "another camera": (
        lambda f: edit(f / "config.json", lambda a: a["config"].update(cameras={"top": [32, 32]})),
        "another architecture",
    ),
    "another head": (
        lambda f: edit(f / "config.json", lambda a: a["config"].update(heads=["success"])), "another architecture",
    ),
    "a key from the future": (
        lambda f: edit(f / "config.json", lambda a: a["config"].update(wheels=4)), r"unknown keys \['wheels'\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_checkpoint_says_so_in_one_line(folder, name):
    damage, says = DAMAGE[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_weights_without_a_normaliser_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "normaliser.state_std"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"another architecture .*normaliser"):
        CompactVLA.load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00binary"),
        lambda f: edit(f / "config.json", lambda a: a.pop("sentences")),
        lambda f: edit(f / "config.json", lambda a: a["sentences"].pop()),
    ],
    ids=["not UTF-8", "no sentences", "a sentence too few"],
)
def test_damage_that_still_escapes(folder, damage):
    damage(folder)
    with pytest.raises(CheckpointError):
        load_policy(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"no policy folder .* train one with: failwise train bc"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="no policy folder"):
        load_policy(tmp_path / "file")


def test_a_kind_that_no_plugin_provides(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "compactt"}')
    with pytest.raises(UnknownNameError, match=r"compactt.*Did you mean 'compact'"):
        load_policy(tmp_path)


def test_the_shipped_checkpoint_loads_by_its_name():
    policy = load_policy("metaworld-base")
    assert policy.spec.kind == "compact"
    assert weights_sha256(shipped("metaworld-base"))
    with pytest.raises(CheckpointError, match="ships no checkpoint 'nonsense'"):
        shipped("nonsense")


def test_a_folder_of_ones_own_goes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_policy().save(tmp_path / "metaworld-base")
    assert load_policy("metaworld-base").config.width == 32
