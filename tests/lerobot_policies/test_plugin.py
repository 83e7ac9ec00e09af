"""The plugin inside LeRobot: training, evaluation, checkpoints, and what the failure expert learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from failwise.cli import main
from failwise.policies import load_policy

from .test_policies import seen

pytestmark = pytest.mark.lerobot


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[Path, Path]:
    """Demonstrations, and episodes of a random policy, which all fail, as datasets of LeRobot."""
    root = tmp_path_factory.mktemp("data")
    for name, policy in (("demos", "expert"), ("own", "random")):
        argv = ["collect", "--env", "tiny/reach", "--policy", policy, "--episodes", "3", "--look-every", "1"]
        assert main([*argv, "--out", str(root / name), "--workers", "1"]) == 0
        assert main(["store", "export", str(root / name), "--lerobot", str(root / f"{name}-lerobot")]) == 0
    return root / "demos-lerobot", root / "own-lerobot"


def lerobot(command: str, *options: str) -> str:
    """Run one of LeRobot's commands, as a user does; returns what it printed."""
    run = subprocess.run(
        [str(Path(sys.executable).parent / command), *options], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout + run.stderr


def options_of(options: dict[str, object]) -> list[str]:
    return [f"--policy.{k}={json.dumps(v) if isinstance(v, (list, tuple)) else v}" for k, v in options.items()]


def train(kind: str, demos: Path, out: Path, *more: str) -> tuple[Path, str]:
    said = lerobot(
        "lerobot-train", f"--policy.type={kind}", "--policy.push_to_hub=false", "--policy.device=cpu",
        f"--dataset.repo_id=local/{demos.name}", f"--dataset.root={demos}", f"--output_dir={out}", "--steps=3",
        "--batch_size=4", "--num_workers=0", "--log_freq=1", "--save_freq=3", *more,
    )  # fmt: skip
    return out / "checkpoints" / "last", said


def evaluated(checkpoint: Path, out: Path, alpha: float) -> list[float]:
    """The sums of rewards of two episodes, as lerobot-eval writes them."""
    lerobot(
        "lerobot-eval", f"--policy.path={checkpoint / 'pretrained_model'}", f"--policy.alpha={alpha}",
        "--policy.device=cpu", "--env.type=failwise", "--env.task=tiny/reach", "--eval.n_episodes=2",
        "--eval.batch_size=2", f"--output_dir={out}", "--seed=1", "--job_name=eval",
    )  # fmt: skip
    rewards: list[float] = json.loads((out / "eval_info.json").read_text())["per_task"][0]["metrics"]["sum_rewards"]
    return rewards


def test_smolvla_is_trained_and_evaluated_by_lerobots_own_commands(datasets, smolvla: Path, tmp_path: Path) -> None:
    demos, own = datasets
    checkpoint, said = train(
        "failwise_smolvla", demos, tmp_path / "out", f"--policy.base={smolvla}", f"--policy.failures={own}"
    )
    assert "frames of failed episodes" in said
    about = json.loads((checkpoint / "pretrained_model" / "config.json").read_text())
    assert (about["type"], about["chunk_size"], about["num_steps"], about["base"]) == ("failwise_smolvla", 6, 5, "")
    trained, base = (
        load_file(checkpoint / "pretrained_model" / "model.safetensors"),
        load_file(smolvla / "model.safetensors"),
    )
    name = "action_out_proj.weight"
    start, acting, failing = base[f"model.{name}"], trained[f"model.{name}"], trained["failure.action_out_proj/weight"]
    assert not torch.equal(acting, start) and not torch.equal(failing, start) and not torch.equal(failing, acting)
    assert all(torch.equal(trained[n], w) for n, w in base.items() if ".vlm." in n)  # frozen, and still the base's
    plain, guided = (evaluated(checkpoint, tmp_path / str(alpha), alpha) for alpha in (0.0, 3.0))
    assert len(plain) == 2 and all(np.isfinite(plain)) and guided != plain


def test_diffusion_is_trained_and_evaluated_by_lerobots_own_commands(datasets, tmp_path: Path) -> None:
    from .small import DIFFUSION

    demos, own = datasets
    given = {k: v for k, v in DIFFUSION.items() if v is not None} | {"pretrained_backbone_weights": "null"}
    checkpoint, _ = train("failwise_diffusion", demos, tmp_path / "out", f"--policy.failures={own}", *options_of(given))
    trained = load_file(checkpoint / "pretrained_model" / "model.safetensors")
    first = next(n for n in trained if n.startswith("failure."))
    assert not torch.equal(
        trained[first], trained["diffusion.unet." + first.removeprefix("failure.").replace("/", ".")]
    )
    guided = evaluated(checkpoint, tmp_path / "guided", 3.0)
    assert len(guided) == 2 and all(np.isfinite(guided))


@pytest.mark.parametrize("fixture", ["dual", "dual_diffusion"])
def test_a_checkpoint_comes_back_to_the_bit(fixture: str, request, tmp_path: Path) -> None:
    folder = request.getfixturevalue(fixture)
    policy = load_policy(folder).policy
    policy.save_pretrained(tmp_path / "again")
    first, second = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("fixture", ["dual", "dual_diffusion"])
def test_in_lerobots_hands_alpha_zero_is_plain_and_above_it_is_not(fixture: str, request) -> None:
    wrapped = load_policy(request.getfixturevalue(fixture))
    policy = wrapped.policy
    parent = next(kind for kind in type(policy).__mro__ if kind.__module__.startswith("lerobot."))

    def chunk(alpha: float, how: type | None = None) -> torch.Tensor:
        policy.config.alpha = alpha
        policy.reset()
        torch.manual_seed(4)
        with torch.inference_mode():
            batch = dict(wrapped.inputs.ready(seen(1)))
            return (how or type(policy)).select_action(policy, batch)

    with policy.plainly():
        plain = chunk(1.0, parent)
    assert torch.equal(chunk(0.0), plain)
    assert not torch.equal(chunk(1.0), plain)


def test_a_plain_checkpoint_opens_as_a_dual_one_with_two_equal_experts(smolvla: Path, tmp_path: Path) -> None:
    config = json.loads((smolvla / "config.json").read_text()) | {"type": "failwise_smolvla"}
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in smolvla.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "config.json").write_text(json.dumps(config))
    policy = load_policy(copy)
    context = policy.encode(seen(0))
    both = policy.predict(torch.randn(1, 1, 6, 8), torch.tensor(0.2), context, ("success", "failure"))
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("fixture", ["dual", "dual_diffusion"])
def test_the_failure_expert_learns_its_chunks_and_nothing_else_moves(fixture: str, request) -> None:
    torch.manual_seed(0)
    wrapped = load_policy(request.getfixturevalue(fixture))
    policy = wrapped.policy
    rows = 4
    batch = dict(wrapped.inputs.ready(seen(*range(rows))))
    if fixture == "dual_diffusion":
        batch = {k: v[:, None].repeat_interleave(2, 1) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    horizon = wrapped.spec.horizon
    batch["action"] = torch.linspace(-1, 1, horizon)[None, :, None].expand(rows, horizon, 3).clone()
    batch["action_is_pad"] = torch.zeros(rows, horizon, dtype=torch.bool)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = policy.failure_loss(dict(batch))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(name.startswith("failure.") for name in moved)


def test_what_cannot_be_learned_from_is_refused_in_one_line(datasets, smolvla: Path, act: Path) -> None:
    from lerobot_policy_failwise import FailwiseSmolVLAConfig
    from lerobot_policy_failwise.failures import FailureBatches

    demos, _ = datasets
    config = load_policy(smolvla).policy.config
    options = {"input_features": config.input_features, "output_features": config.output_features}
    with pytest.raises(ValueError, match="holds no failed episode"):
        FailureBatches(FailwiseSmolVLAConfig(failures=str(demos), **options), lambda batch: batch)
    with pytest.raises(ValueError, match="of type 'act'; this one starts from 'smolvla'"):
        FailwiseSmolVLAConfig(base=str(act))
    for name, value in (("alpha", -1.0), ("scale", 0.0), ("negative_batch", 0)):
        with pytest.raises(ValueError, match=f"--policy.{name} must be"):
            FailwiseSmolVLAConfig(**{name: value})


def test_the_end_of_failed_episodes_alone(datasets, smolvla: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from lerobot_policy_failwise import FailwiseSmolVLAConfig
    from lerobot_policy_failwise.failures import failed_rows

    _, own = datasets
    data = LeRobotDataset("local/own", root=own)
    every = failed_rows(data, FailwiseSmolVLAConfig())
    assert every == list(range(len(data)))
    ends = failed_rows(data, FailwiseSmolVLAConfig(failure_tail=10))
    assert len(ends) == 30 and set(ends) < set(every) and len(data) - 1 in ends and 0 not in ends
