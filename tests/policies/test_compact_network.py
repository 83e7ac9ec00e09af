"""The batched passes against the same thing done slowly: one expert, one sample, one observation at a time."""

from dataclasses import replace

import pytest
import torch
from small_policy import HEADS, SENTENCES, noisy, observations, small_config, small_policy

from failwise.errors import CheckpointError, SetupError
from failwise.policies.compact.network import StackedLinear, StackedNorm, attend
from failwise.policies.text import TextCache

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=["flow", "epsilon", "shared layers"])
def policy(request):
    if request.param == "shared layers":
        return small_policy(expert_layers=3, shared_layers=2)
    return small_policy(prediction=request.param)


def test_what_is_shared_is_the_first_experts_and_learns_from_it_alone():
    policy = small_policy(expert_layers=3, shared_layers=2)
    x, t = noisy(policy, 2, 2)
    network = policy.network.train()
    inputs = policy.inputs(observations(2))
    for head in range(3):
        network.zero_grad()
        prefix, mask = network.backbone(*inputs)
        network.predict_shared(x, t, prefix.detach(), mask, head).square().sum().backward()
        for name, parameter in network.experts.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            moved = [bool(row.abs().sum() > 0) for row in gradient]
            if network.experts.is_shared(f"experts.{name}"):
                assert moved[1:] == [False, False] and (head == 0 or not moved[0]), (head, name)
            else:
                assert [m for i, m in enumerate(moved) if i != head] == [False, False], (head, name)
        assert network.experts.out.weight.grad[head].abs().sum() > 0
    with torch.no_grad():
        for name, parameter in network.experts.named_parameters():
            if network.experts.is_shared(f"experts.{name}"):
                parameter[1:] += 1.0
    network.eval()
    again = policy.predict(x, t, policy.encode(observations(2)), HEADS)
    other = small_policy(expert_layers=3, shared_layers=2)
    torch.testing.assert_close(again, other.predict(x, t, other.encode(observations(2)), HEADS), **CLOSE)


@pytest.mark.parametrize("layers", [-1, 3])
def test_every_head_keeps_a_layer_of_its_own(layers):
    with pytest.raises(SetupError, match="shared_layers must be 0 to 2"):
        small_config(expert_layers=3, shared_layers=layers)


def test_stacked_experts_are_each_expert_alone(policy):
    context = policy.encode(observations(3))
    x, t = noisy(policy, 3, 2)
    together = policy.predict(x, t, context, HEADS)
    assert together.shape == (3, 3, 2, 4, 3)
    for e, head in enumerate(HEADS):
        torch.testing.assert_close(together[e], policy.predict(x, t, context, (head,))[0], **CLOSE)
    assert (together[0] - together[1]).abs().max() > 0.01, "experts that do not differ cannot show a mix-up"


@pytest.mark.parametrize("heads", [("failure", "success"), ("success", "own_success"), ("own_success",)])
def test_experts_come_in_the_order_asked_for(policy, heads):
    context = policy.encode(observations(2))
    x, t = noisy(policy, 2, 1)
    every = policy.predict(x, t, context, HEADS)
    torch.testing.assert_close(
        policy.predict(x, t, context, heads), torch.stack([every[HEADS.index(h)] for h in heads]), **CLOSE
    )


def test_an_expert_is_a_network_with_that_expert_only(policy):
    context = policy.encode(observations(2))
    x, t = noisy(policy, 2, 2)
    for head in HEADS:
        single = policy.with_heads((head,))
        alone = single.predict(x, t, single.encode(observations(2)), (head,))
        torch.testing.assert_close(policy.predict(x, t, context, (head,)), alone, **CLOSE)


def test_samples_in_one_pass_are_separate_passes(policy):
    context = policy.encode(observations(2))
    x, t = noisy(policy, 2, 6)
    together = policy.predict(x, t, context, ("success", "failure"))
    for n in range(6):
        alone = policy.predict(x[:, n : n + 1], t[:, n : n + 1], context, ("success", "failure"))
        torch.testing.assert_close(together[:, :, n : n + 1], alone, **CLOSE)


def test_a_batch_is_its_observations_alone(policy):
    seen = observations(5)
    context = policy.encode(seen)
    x, t = noisy(policy, 5, 1)
    together = policy.predict(x, t, context, HEADS)
    assert context.batch == 5
    for b in range(5):
        single = policy.encode(seen[b : b + 1])
        torch.testing.assert_close(single.features_BD[0], context.features_BD[b], **CLOSE)
        alone = policy.predict(x[b : b + 1], t[b : b + 1], single, HEADS)
        torch.testing.assert_close(together[:, b : b + 1], alone, **CLOSE)


def test_selected_contexts_are_those_observations(policy):
    context = policy.encode(observations(4))
    x, t = noisy(policy, 4, 1)
    order = torch.tensor([2, 0, 2])
    every = policy.predict(x, t, context, ("success",))  # fills the cache, which must not be carried over
    torch.testing.assert_close(
        policy.predict(x[order], t[order], context.select(order), ("success",)), every[:, order], **CLOSE
    )


def test_the_cached_prefix_gives_the_same_twice(policy):
    context = policy.encode(observations(2))
    x, t = noisy(policy, 2, 1)
    first = policy.predict(x, t, context, HEADS)
    assert torch.equal(policy.predict(x, t, context, HEADS), first)
    assert torch.equal(policy.predict(x, t, policy.encode(observations(2)), HEADS), first)


def test_one_time_for_all_is_that_time_for_each(policy):
    context = policy.encode(observations(2))
    x, _ = noisy(policy, 2, 3)
    for t in (0.0, 0.3, 1.0):
        one = policy.predict(x, torch.tensor(t), context, ("success",))
        assert torch.equal(one, policy.predict(x, torch.full((2, 3), t), context, ("success",)))
        assert torch.isfinite(one).all()


def test_padding_of_text_changes_nothing(policy):
    images, state, text, mask = policy.inputs(observations(2))
    garbage = torch.where(mask[..., None], text, torch.full_like(text, 50.0))
    assert not torch.equal(garbage, text)
    x, t = noisy(policy, 2, 2)
    with torch.inference_mode():
        clean, other = (
            policy.network.predict_shared(x, t, *policy.network.backbone(images, state, words, mask), 0)
            for words in (text, garbage)
        )
    torch.testing.assert_close(other, clean, **CLOSE)


def test_features_are_the_mean_of_the_real_tokens(policy):
    context = policy.encode(observations(3))
    lengths = context.mask_B11L.sum(-1).flatten()
    assert lengths.min() < lengths.max() == context.prefix_BLD.shape[1], "sentences differ, and the longest sets L"
    for b in range(3):
        real = context.prefix_BLD[b][context.mask_B11L[b, 0, 0]]
        torch.testing.assert_close(context.features_BD[b], real.mean(0), **CLOSE)


def test_every_input_reaches_the_prediction(policy):
    seen = observations(1)[0]
    x, t = noisy(policy, 1, 1)
    changed = {
        "top": replace(seen, images={**seen.images, "top": 255 - seen.images["top"]}),
        "robot": replace(seen, images={**seen.images, "robot": 255 - seen.images["robot"]}),
        "state": replace(seen, state=seen.state + 1),
        "instruction": replace(seen, instruction=SENTENCES[1]),
    }
    before = policy.predict(x, t, policy.encode([seen]), ("success",))
    for name, other in changed.items():
        after = policy.predict(x, t, policy.encode([other]), ("success",))
        assert (after - before).abs().max() > 1e-6, name


def test_a_head_that_is_not_there_is_named(policy):
    x, t = noisy(policy, 1, 1)
    with pytest.raises(CheckpointError, match="no head 'critic', only"):
        policy.predict(x, t, policy.encode(observations(1)), ("success", "critic"))


def test_attention_is_torchs_own():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.rand(2, 1, 1, 7) > 0.4
    mask[..., 0] = True
    slow = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), slow, **CLOSE)
    torch.testing.assert_close(attend(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v), **CLOSE)


def test_stacked_layers_are_torchs_own():
    torch.manual_seed(0)
    linear, norm, x = StackedLinear(3, 6, 4), StackedNorm(3, 6), torch.randn(3, 5, 6)
    with torch.no_grad():
        for p in (*linear.parameters(), *norm.parameters()):
            p.add_(torch.randn_like(p))
    for e in range(3):
        slow = torch.nn.functional.linear(x[e], linear.weight[e].T, linear.bias[e, 0])
        torch.testing.assert_close(linear(x, slice(0, 3))[e], slow, **CLOSE)
        torch.testing.assert_close(linear(x[e : e + 1], [e])[0], slow, **CLOSE)
        slow = torch.nn.functional.layer_norm(x[e], (6,), norm.gain[e, 0], norm.bias[e, 0])
        torch.testing.assert_close(norm(x, slice(0, 3))[e], slow, **CLOSE)


def test_the_text_batch_pads_with_zeros():
    cache = TextCache(6)
    cache.load_state_dict({"a": torch.ones(2, 384), "b": torch.ones(6, 384)})
    states, mask = cache.batch(["b", "a"])
    assert mask.tolist() == [[True] * 6, [True] * 2 + [False] * 4]
    assert states.shape == (2, 6, 384) and bool((states.sum(-1) > 0).eq(mask).all())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 30, "attention_heads": 4}, "width 30 is not divisible"),
        ({"execute": 5}, "execute must be 1 to horizon 4, not 5"),
        ({"execute": 0}, "not 0"),
        ({"cameras": {"top": (32, 40)}}, "camera 'top' is 32x40"),
        ({"heads": ("a", "a")}, "heads must be distinct"),
        ({"heads": ()}, "at least one"),
    ],
)
def test_shapes_that_cannot_be(changes, says):
    with pytest.raises(SetupError, match=says):
        small_config(**changes)


def test_a_server_that_hears_ever_new_sentences_keeps_the_last_ones_and_those_of_the_checkpoint(monkeypatch):
    from types import SimpleNamespace

    from failwise.policies import text

    asked = []

    def model(**batch):
        asked.append(batch["input_ids"])
        return SimpleNamespace(last_hidden_state=torch.full((1, 2, text.TEXT_DIM), float(len(batch["input_ids"]))))

    monkeypatch.setattr(text, "_encoder", lambda: (lambda sentences, **_: {"input_ids": sentences[0]}, model))
    cache = TextCache(6, most=3)
    cache.load_state_dict({"the checkpoint's own": torch.zeros(2, text.TEXT_DIM).half()})
    for number in range(10):
        cache.batch(["the checkpoint's own", "x" * number])
    assert set(cache.state_dict()) == {"the checkpoint's own", "x" * 7, "x" * 8, "x" * 9}
    states, _ = cache.batch(["x" * n for n in range(6)])  # more at once than it keeps
    assert states[:, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert asked.count("x" * 9) == 1 and asked.count("x") == 2
