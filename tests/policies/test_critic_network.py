"""Value model and chunk critic: the batched ensemble against each member alone, and their checkpoint."""

import json
from dataclasses import replace

import pytest
import torch
from small_policy import observations, small_policy

from failwise.errors import CheckpointError
from failwise.policies.critic import Critic, CriticNetwork
from failwise.policies.critic_config import CriticConfig

SMALL = CriticConfig(prefix_dim=32, horizon=4, action_dim=3, width=16, attention_heads=2, layers=1, members=3)


@pytest.fixture(scope="module")
def context():
    return small_policy().encode(observations(3))


@pytest.fixture
def critic():
    torch.manual_seed(0)
    network = CriticNetwork(SMALL)
    with torch.no_grad():  # the members' readers start equal
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Critic(SMALL, network, {"held_out_auc_value": 0.75})


@pytest.fixture(scope="module")
def chunks():
    return torch.randn(3, 5, 4, 3, generator=torch.Generator().manual_seed(0))


def alone(critic, e):
    single = CriticNetwork(replace(critic.config, members=1))
    single.load_state_dict({k: v[e : e + 1] for k, v in critic.network.state_dict().items()})
    return single


def test_the_ensemble_is_each_member_alone(critic, context, chunks):
    where = (context.prefix_BLD, context.mask_B11L)
    with torch.inference_mode():
        value, scored = critic.network.value(*where), critic.network.critic(chunks, *where)
        assert value.shape == (3, 3) and scored.shape == (3, 3, 5)
        for e in range(3):
            torch.testing.assert_close(alone(critic, e).value(*where)[0], value[e], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone(critic, e).critic(chunks, *where)[0], scored[e], rtol=0, atol=1e-5)
        assert value.std(0).min() > 1e-4, "members that do not differ cannot show a mix-up"


def test_scores_are_pooled_probabilities(critic, context, chunks):
    with torch.inference_mode():
        logits = critic.network.critic(chunks, context.prefix_BLD, context.mask_B11L)
    torch.testing.assert_close(critic(chunks, context), torch.sigmoid(logits.mean(0)))
    cautious = Critic(replace(SMALL, pessimism=1.5), critic.network)
    torch.testing.assert_close(cautious(chunks, context), torch.sigmoid(logits.mean(0) - 1.5 * logits.std(0)))
    assert (cautious(chunks, context) < critic(chunks, context)).all()
    assert (cautious.value(context) < critic.value(context)).all()


def test_chunks_are_scored_independently(critic, context, chunks):
    together = critic(chunks, context)
    for n in range(5):
        torch.testing.assert_close(critic(chunks[:, n : n + 1], context)[:, 0], together[:, n], rtol=0, atol=1e-5)
    assert together.std(1).min() > 1e-6, "the score must depend on the chunk"


def test_padding_of_text_is_not_read(critic, context):
    real = context.mask_B11L[:, 0, 0, :, None]
    garbage = torch.where(real, context.prefix_BLD, torch.full_like(context.prefix_BLD, 30.0))
    with torch.inference_mode():
        clean, other = (critic.network.value(p, context.mask_B11L) for p in (context.prefix_BLD, garbage))
    torch.testing.assert_close(other, clean, rtol=0, atol=1e-5)
    assert not torch.equal(garbage, context.prefix_BLD)


def test_a_round_trip_is_exact(critic, context, chunks, tmp_path):
    critic.save(tmp_path)
    back = Critic.load(tmp_path)
    assert back.config == critic.config and back.notes == {"held_out_auc_value": 0.75}
    assert torch.equal(back(chunks, context), critic(chunks, context))
    assert torch.equal(back.value(context), critic.value(context))


def edited(folder, **changes):
    about = json.loads((folder / "critic.json").read_text())
    about["config"].update(changes)
    (folder / "critic.json").write_text(json.dumps(about))


DAMAGE = {
    "no weights": (lambda f: (f / "critic.safetensors").unlink(), "critic.safetensors is missing"),
    "no json": (lambda f: (f / "critic.json").unlink(), "critic.json is missing"),
    "half the weights": (lambda f: (f / "critic.safetensors").write_bytes(b"\x08"), "is damaged"),
    "no config": (lambda f: (f / "critic.json").write_text("{}"), "is damaged"),
    "not json": (lambda f: (f / "critic.json").write_text("{"), "is damaged"),
    "more members": (lambda f: edited(f, members=5), "another architecture"),
    "a key from the future": (lambda f: edited(f, wheels=4), "another architecture"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_critic_says_so_in_one_line(critic, tmp_path, name):
    critic.save(tmp_path)
    damage, says = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        Critic.load(tmp_path)
    assert "\n" not in str(caught.value)
