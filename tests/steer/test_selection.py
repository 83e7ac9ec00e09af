"""Best of N, chains, compositions of policies."""

import dataclasses

import pytest
import torch
from analytic_policies import MixturePolicy, NetworkPolicy, context_of, gaussian, seeded

from failwise import registry
from failwise.errors import EpisodeError, SetupError
from failwise.steer import AFIL, BestOfN, Chain, ClassifierFree, Composition, Ensemble, Unsteered, sample

H, A = 8, 4


def first_action(actions_BNHA, context):
    return actions_BNHA[:, :, 0, 0]


def test_the_best_sample_is_taken_and_reported():
    policy, context = NetworkPolicy(), context_of(5, torch.float32, 16)
    drawn = sample(policy, context, BestOfN(first_action, samples=6), seeded())
    scores = drawn.samples_BNHA[:, :, 0, 0]
    for b in range(5):
        best = max(range(6), key=lambda n: scores[b, n].item())
        assert drawn.index_B[b] == best
        assert torch.equal(drawn.actions_BHA[b], drawn.samples_BNHA[b, best])
        assert drawn.info[b] == pytest.approx(
            {
                "critic_chosen": scores[b].max().item(),
                "critic_first": scores[b, 0].item(),
                "critic_mean": scores[b].mean().item(),
                "critic_spread": scores[b].std(correction=0).item(),
            }
        )


def test_margin_keeps_sample_zero_unless_clearly_beaten():
    scores = torch.tensor([[0.5, 0.55, 0.2], [0.5, 0.7, 0.65], [0.9, 0.1, 0.1]])
    actions = torch.zeros((3, 3, H, A))
    for margin, expected in [(0.0, [1, 1, 0]), (0.1, [0, 1, 0]), (1.0, [0, 0, 0])]:
        steering = BestOfN(lambda a, c: scores, samples=3, margin=margin)
        assert steering.select(actions, context_of(3)).tolist() == expected
        assert [row["critic_chosen"] for row in steering.info()] == pytest.approx(
            [scores[b, i].item() for b, i in enumerate(expected)]
        )


def test_equal_scores_keep_sample_zero():
    steering = BestOfN(lambda a, c: torch.ones((2, 4)), samples=4)
    assert steering.select(torch.zeros((2, 4, H, A)), context_of(2)).tolist() == [0, 0]


def test_one_sample_is_the_unsteered_policy_bit_for_bit():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    base = sample(policy, context, Unsteered(), seeded())
    assert torch.equal(sample(policy, context, BestOfN(first_action, 1), seeded()).actions_BHA, base.actions_BHA)


def test_bad_critics_are_refused():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    with pytest.raises(SetupError, match="shape"):
        sample(policy, context, BestOfN(lambda a, c: a.sum((1, 2, 3)), 3), seeded())
    with pytest.raises(EpisodeError, match="not a number"):
        sample(policy, context, BestOfN(lambda a, c: first_action(a, c) * float("nan"), 3), seeded())
    with pytest.raises(SetupError, match="margin"):
        BestOfN(first_action, margin=-0.1)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_chain_guides_every_sample_and_then_selects(prediction):
    policy, context = NetworkPolicy(prediction), context_of(3, torch.float32, 16)
    afil = AFIL(alpha=2.0, gate="risk", value=lambda c: torch.tensor([0.1, 0.5, 0.9]))
    chain = Chain([afil, BestOfN(first_action, samples=4)])
    assert (chain.heads, chain.samples) == (("success", "failure"), 4)
    drawn = sample(policy, context, chain, seeded())
    alone = AFIL(alpha=2.0, gate="risk", value=lambda c: torch.tensor([0.1, 0.5, 0.9]))
    alone.samples = 4
    guided = sample(policy, context, alone, seeded())
    assert torch.equal(drawn.samples_BNHA, guided.samples_BNHA)
    assert torch.equal(drawn.index_B, drawn.samples_BNHA[:, :, 0, 0].argmax(1))
    assert set(drawn.info[0]) >= {"risk", "guidance_mean", "critic_chosen"}


def test_a_chain_adjusts_in_order_on_the_acting_head():
    p = torch.randn((3, 1, 1, H, A), generator=seeded())
    policy, context = NetworkPolicy(heads=("success", "failure", "plain")), context_of(1)
    afil = AFIL(schedule="constant", alpha=0.5, clamp=None)
    chain = Chain([afil, Unsteered(), ClassifierFree("success", "plain", 2.0)])
    assert chain.heads == ("success", "failure", "plain")
    chain.prepare(policy, context)
    guided = p[0] + 0.5 * (p[0] - p[1])
    torch.testing.assert_close(chain.adjust(p, p[0], 0.5, context), p[2] + 2.0 * (guided - p[2]))


def test_a_chain_of_neutral_members_is_the_unsteered_policy_bit_for_bit():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    chain = Chain(
        [
            Unsteered(),
            AFIL(alpha=0.0),
            Composition({"success": 1.0}),
            ClassifierFree("success", "failure", 1.0),
        ]
    )
    base = sample(policy, context, Unsteered(), seeded())
    assert torch.equal(sample(policy, context, chain, seeded()).actions_BHA, base.actions_BHA)


def test_chains_that_cannot_work_are_refused():
    with pytest.raises(SetupError, match="at least one"):
        Chain([])
    with pytest.raises(SetupError, match="only one"):
        Chain([BestOfN(first_action, 2), BestOfN(first_action, 3)])
    with pytest.raises(SetupError, match="different heads"):
        Chain([AFIL(), ClassifierFree("failure", "success")])


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"success": 0.5}, "sum to 1"), ({"success": 1.5, "failure": -0.5}, "negative"), ({}, "sum to 1")],
)
def test_weights_that_are_not_convex_are_refused(weights, message):
    with pytest.raises(SetupError, match=message):
        Composition(weights)


def test_a_head_without_weight_is_not_evaluated():
    composition = Composition({"failure": 0.0, "success": 1.0})
    assert composition.heads == ("success",)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_an_ensemble_of_policies_composes_as_heads_of_one_policy_do(prediction):
    means = torch.randn((2, 2, 2), generator=seeded(), dtype=torch.float64)
    one, two = (gaussian(m, 0.4) for m in means)
    together = MixturePolicy(prediction, {"a": one, "b": two})
    ensemble = Ensemble(
        {
            "left": MixturePolicy(prediction, {"success": one}),
            "right.v2": MixturePolicy(prediction, {"success": two}),
        }
    )
    assert ensemble.spec.heads == ("left.success", "right.v2.success")
    weights = Composition({"left.success": 0.3, "right.v2.success": 0.7})
    context = ensemble.encode([None] * 3)
    found = sample(ensemble, context, weights, seeded())
    expected = sample(together, context_of(3), Composition({"a": 0.3, "b": 0.7}), seeded())
    torch.testing.assert_close(found.actions_BHA, expected.actions_BHA, rtol=0, atol=1e-12)
    picked = sample(ensemble, context.select(torch.tensor([2])), weights, seeded())
    assert picked.actions_BHA.shape == (1, 2, 2)


def test_policies_that_do_not_compose_are_refused():
    means = torch.zeros((2, 2), dtype=torch.float64)
    flow, noise = (MixturePolicy(p, {"success": gaussian(means, 0.4)}) for p in ("flow", "epsilon"))
    with pytest.raises(SetupError, match="prediction"):
        Ensemble({"a": flow, "b": noise})
    longer = MixturePolicy("flow", {"success": gaussian(torch.zeros((3, 2), dtype=torch.float64), 0.4)})
    with pytest.raises(SetupError, match="horizon"):
        Ensemble({"a": flow, "b": longer})

    class OtherUnits(MixturePolicy):
        def decode(self, actions_BHA):
            return 2 * super().decode(actions_BHA)

    with pytest.raises(SetupError, match="normalise"):
        Ensemble({"a": flow, "b": OtherUnits("flow", {"success": gaussian(means, 0.4)})})
    with pytest.raises(SetupError, match="at least one"):
        Ensemble({})


def test_heads_of_other_names_act_by_their_place():
    policy = NetworkPolicy(heads=("go", "stop"))
    drawn = sample(policy, context_of(1, torch.float32, 16), Chain([BestOfN(first_action, 2)]), seeded())
    assert drawn.actions_BHA.shape == (1, H, A)
    assert dataclasses.asdict(policy.spec)["heads"] == ("go", "stop")


@pytest.mark.parametrize("name", ["none", "afil", "cfg", "best_of_n", "composition"])
def test_registered_names_load(name):
    assert issubclass(registry.load("steering", name), Unsteered)


class Judge:
    """What an agent folder's critic offers."""

    def __call__(self, actions_BNHA, context):
        return actions_BNHA[:, :, 0, 0]

    def value(self, context):
        return torch.full((context.batch,), 0.25)


def test_steerings_are_built_from_an_agents_json():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    built = {
        name: registry.load("steering", name).from_options(options, policy=policy, critic=Judge())
        for name, options in {
            "none": {},
            "afil": {"schedule": "constant", "alpha": 0.5, "gate": "risk", "power": 1.0},
            "cfg": {"conditional": "success", "unconditional": "failure", "weight": 2.0},
            "best_of_n": {"samples": 3, "margin": 0.1},
            "composition": {"weights": {"success": 0.9, "failure": 0.1}},
        }.items()
    }
    for name, steering in built.items():
        drawn = sample(policy, context, steering, seeded())
        assert drawn.samples_BNHA.shape == (2, 3 if name == "best_of_n" else 1, H, A)
    assert sample(policy, context, built["afil"], seeded()).info[0]["risk"] == 0.75


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("afil", {"gate": "risk"}, "risk model"),
        ("afil", {"strength": 1.0}, "known options"),
        ("best_of_n", {}, "needs a critic"),
        ("cfg", {"weight": 2.0}, "conditional"),
        ("none", {"samples": 2}, "Unsteered"),
    ],
)
def test_bad_agent_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(SetupError, match=message) as caught:
        registry.load("steering", name).from_options(options, policy=NetworkPolicy())
    assert "\n" not in str(caught.value)
