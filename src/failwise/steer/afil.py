"""AFIL: a failure head as adaptive negative guidance of a success head (arXiv 2605.08434).

At every denoising step, per observation and sample::

    p = p_s + lam (p_s - p_f),    lam = gate(o) * schedule(p_s, p_f, t),    ||lam (p_s - p_f)|| <= rho ||p_s||

The paper's schedule is ``cosine``: ``lam`` follows the distance of the two heads' predictions. That the
combination is linear in velocities (flow) or noises (epsilon) with exactly this form is our reading; the
gate, the clamp and the scale are ours. docs/methods/afil.md and docs/methods/risk_gate.md say which is whose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

import torch

from failwise.errors import DataError, SetupError
from failwise.protocols import Context
from failwise.steer.posterior import LogRatio
from failwise.steer.process import process_for
from failwise.steer.sampler import sample
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from failwise.protocols import GenerativePolicy

Schedule = Literal["none", "constant", "cosine", "cosine_half", "l2", "dng", "dipole"]
DIVERGENCES = ("cosine", "cosine_half", "l2")
POSTERIORS = ("dng", "dipole")

RiskModel: TypeAlias = Callable[[Context], torch.Tensor]
"""A context of B observations to ``V(o) = P(success | o)``, (B,) in [0, 1]."""


@dataclass(frozen=True)
class AFILOptions:
    """How strongly to steer away from the failure head, and when.

    Attributes:
        schedule: ``lam`` before gate and clamp, with ``c`` the cosine of the two predictions over (H, A):
            ``none`` 0; ``constant`` alpha; ``cosine`` alpha (1 - c) / scale; ``cosine_half`` half of that;
            ``l2`` alpha ||p_s - p_f|| / ||p_s|| / scale; ``dng`` alpha P / (1 - P) with P the tracked
            probability of failure, the success head standing for the marginal; ``dipole`` alpha P with P by
            Bayes between the two heads.
        alpha: overall strength, >= 0. 0 is the success head alone, bit for bit, and the failure head is not
            evaluated.
        scale: for the three divergence schedules, the mean divergence that ``measure_divergence`` found, so
            that the mean ``lam`` is about ``alpha``. 1 takes the divergence as it is.
        clamp: ``rho``, or None for no bound.
        gate: ``risk`` multiplies by ``(1 - V(o)) ** power``; with ``constant`` that is
            ``lam = alpha (1 - V(o)) ** power``.
        power: exponent of the risk gate, > 0.
        prior: P(failure) at t = 0 for ``dng`` and ``dipole``, in (0, 1); None takes ``1 - V(o)``.
        posterior_temperature: divides the log-ratio of ``dng`` and ``dipole``, > 0. Log-ratios
            add up over H * A dims, so above 1 keeps the posterior from saturating in large chunks.
        posterior_cap: bound on P in (0, 1), as ``dng`` diverges at 1.
        every: evaluate the failure head at every so many denoising steps only, beginning with the first, and take
            ``p_s - p_f`` of its last evaluation in between. 1 is the method; above, steering costs less and is
            an approximation. Not for ``dng`` and ``dipole``, which follow both heads along the chain.
        observe: compute the heads' divergence, and the risk where there is a value model, also where nothing is
            steered: for detectors, at the cost of the second head. The actions are those of the success head.
        success, failure: names of the two heads; the first one acts.
    """

    schedule: Schedule = "cosine"
    alpha: float = 1.0
    scale: float = 1.0
    clamp: float | None = 1.0
    gate: Literal["none", "risk"] = "none"
    power: float = 2.0
    prior: float | None = 0.5
    posterior_temperature: float = 1.0
    posterior_cap: float = 0.9
    every: int = 1
    observe: bool = False
    success: str = "success"
    failure: str = "failure"

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise SetupError(f"unknown schedule {self.schedule!r}; choose one of {', '.join(get_args(Schedule))}")
        if self.gate not in ("none", "risk"):
            raise SetupError(f"unknown gate {self.gate!r}; choose none or risk")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise SetupError(f"alpha must be finite and not negative, got {self.alpha}")
        for name in ("scale", "power", "posterior_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SetupError(f"{name} must be positive, got {getattr(self, name)}")
        if self.scale != 1.0 and self.schedule not in DIVERGENCES:
            raise SetupError(f"scale belongs to the schedules {', '.join(DIVERGENCES)}, not to {self.schedule!r}")
        if self.clamp is not None and not self.clamp > 0:
            raise SetupError(f"clamp must be positive or None, got {self.clamp}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise SetupError(f"prior is a probability in (0, 1) or None, got {self.prior}")
        if not 0 < self.posterior_cap < 1:
            raise SetupError(f"posterior_cap must lie in (0, 1), got {self.posterior_cap}")
        if self.every < 1:
            raise SetupError(f"every must be at least 1, got {self.every}")
        if self.every > 1 and self.schedule in POSTERIORS:
            raise SetupError(f"schedule {self.schedule!r} needs both heads at every denoising step: every must be 1")
        if self.success == self.failure:
            raise SetupError(f"guidance needs two different heads, got {self.success!r} twice")

    @property
    def active(self) -> bool:
        """Whether the failure head can have any effect on the actions."""
        return self.schedule != "none" and self.alpha > 0

    @property
    def needs_risk(self) -> bool:
        """Whether ``V(o)`` is needed: for the gate, or as the prior of a posterior schedule."""
        return self.active and (self.gate == "risk" or (self.schedule in POSTERIORS and self.prior is None))


class AFIL(Unsteered):
    """Negative guidance from a failure head.

    Args:
        options: an ``AFILOptions``; or give its fields as keywords: ``AFIL(alpha=0.5, gate="risk",
            value=critic)``.
        value: the risk model ``V(o) = P(success | o)``; only called where the options need it.

    Raises:
        SetupError: bad options, or a risk gate without a risk model.
    """

    def __init__(self, options: AFILOptions | None = None, *, value: RiskModel | None = None, **fields: Any) -> None:
        if options is not None and fields:
            raise SetupError(
                f"give AFIL its options either as AFILOptions or as keywords, not both ({', '.join(fields)})"
            )
        try:
            self.options = options if options is not None else AFILOptions(**fields)
        except TypeError as error:
            known = ", ".join(AFILOptions.__dataclass_fields__)
            raise SetupError(f"AFIL: {error}; known options: {known}") from error
        if self.options.needs_risk and value is None:
            raise SetupError(
                "AFIL's risk gate and prior=None need a risk model: AFIL(..., value=model of P(success | o))"
            )
        self._value = value
        # without the failure head the batch that the expert sees is the unsteered one, hence the same bits
        both = (self.options.success, self.options.failure)
        self.heads = both if self.options.active or self.options.observe else both[:1]
        self._gate_B1: torch.Tensor | None = None
        self._risk_B: torch.Tensor | None = None
        self._ratio: LogRatio | None = None
        self._held_BNHA: torch.Tensor | None = None
        self._trace: list[tuple[torch.Tensor, torch.Tensor]] = []

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, policy: GenerativePolicy, critic: Any = None) -> Self:
        """With ``critic.value`` of the agent's own critic as the risk model."""
        return cls._built(options, value=getattr(critic, "value", None))

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Compute the risk of this observation, and begin a new posterior."""
        super().prepare(policy, context)
        o = self.options
        self._trace, self._risk_B, self._gate_B1, self._ratio, self._held_BNHA = [], None, None, None, None
        if (o.needs_risk or o.observe) and self._value is not None:
            self._risk_B = 1.0 - _checked_value(self._value(context), context)
            if o.gate == "risk":
                self._gate_B1 = (self._risk_B**o.power)[:, None]
        if o.active and o.schedule in POSTERIORS:
            self._ratio = LogRatio(process_for(policy))

    def heads_at(self, k: int) -> tuple[str, ...]:
        """Both heads, or the acting one alone at a denoising step k that reuses the last difference."""
        return self.heads if k % self.options.every == 0 else self.heads[:1]

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """``p_s + lam (p_s - p_f)``, (B, N, H, A), of predictions (2, B, N, H, A): success, then failure.

        Of success predictions alone, (1, B, N, H, A), with the difference of the last step that had both.
        """
        success_BNHA = predictions_EBNHA[0]
        if not self.options.active:
            if len(predictions_EBNHA) == 2:
                self._observe(predictions_EBNHA)
            return success_BNHA
        if len(predictions_EBNHA) == 1:
            assert self._held_BNHA is not None, "the first denoising step evaluates both heads"
            away_BNHA = self._held_BNHA
            failure_BNHA = success_BNHA - away_BNHA
            predictions_EBNHA = torch.stack([success_BNHA, failure_BNHA])
        else:
            failure_BNHA = predictions_EBNHA[1]
            away_BNHA = success_BNHA - failure_BNHA
            self._held_BNHA = away_BNHA
        norms_EBN = torch.linalg.vector_norm(predictions_EBNHA, dim=(-2, -1))
        away_BN = torch.linalg.vector_norm(away_BNHA, dim=(-2, -1))
        strength_BN = self._strength(success_BNHA, failure_BNHA, norms_EBN, away_BN, noisy_BNHA, t)
        if self._gate_B1 is not None:
            strength_BN = strength_BN * self._gate_B1
        if self.options.clamp is not None:
            bound_BN = self.options.clamp * norms_EBN[0] / away_BN.clamp_min(torch.finfo(away_BN.dtype).tiny)
            strength_BN = torch.minimum(strength_BN, bound_BN)
        self._trace.append((strength_BN, cosine_distance(norms_EBN, away_BN)))
        return success_BNHA + strength_BN[:, :, None, None] * away_BNHA

    def _observe(self, predictions_EBNHA: torch.Tensor) -> None:
        """Note the divergence of two heads of which one acts alone."""
        norms_EBN = torch.linalg.vector_norm(predictions_EBNHA, dim=(-2, -1))
        away_BN = torch.linalg.vector_norm(predictions_EBNHA[0] - predictions_EBNHA[1], dim=(-2, -1))
        self._trace.append((torch.zeros_like(away_BN), cosine_distance(norms_EBN, away_BN)))

    def _strength(
        self,
        success_BNHA: torch.Tensor,
        failure_BNHA: torch.Tensor,
        norms_EBN: torch.Tensor,
        away_BN: torch.Tensor,
        noisy_BNHA: torch.Tensor,
        t: float,
    ) -> torch.Tensor:
        o = self.options
        if o.schedule in DIVERGENCES:
            return (o.alpha / o.scale) * divergence(o.schedule, norms_EBN, away_BN)
        if self._ratio is not None:
            ratio_BN = self._ratio.update(success_BNHA, failure_BNHA, noisy_BNHA, t) / o.posterior_temperature
            probability_BN = self._posterior(ratio_BN)
            return o.alpha * (probability_BN / (1.0 - probability_BN) if o.schedule == "dng" else probability_BN)
        return torch.full_like(away_BN, o.alpha)

    def _posterior(self, ratio_BN: torch.Tensor) -> torch.Tensor:
        o = self.options
        if o.prior is not None:
            prior = ratio_BN.new_tensor(o.prior)
        else:
            assert self._risk_B is not None, "prepare() comes before adjust()"
            # a risk of exactly 0 or 1 would never move
            prior = self._risk_B.clamp(1e-3, 1 - 1e-3)[:, None]
        if o.schedule == "dng":
            log_probability = prior.log() + ratio_BN
            return log_probability.clamp_max(math.log(o.posterior_cap)).exp()
        return torch.sigmoid(torch.logit(prior) + ratio_BN).clamp_max(o.posterior_cap)

    def info(self) -> list[dict[str, float]]:
        """Per observation: mean and maximum ``lam``, mean ``1 - c``; the risk if it was computed."""
        if not self._trace:
            return super().info()
        strength_KBN = torch.stack([strength for strength, _ in self._trace])
        divergence_KBN = torch.stack([distance for _, distance in self._trace])
        rows = [
            {"guidance_mean": mean, "guidance_max": top, "head_divergence": distance}
            for mean, top, distance in zip(
                strength_KBN.mean(dim=(0, 2)).tolist(),
                strength_KBN.amax(dim=(0, 2)).tolist(),
                divergence_KBN.mean(dim=(0, 2)).tolist(),
                strict=True,
            )
        ]
        if self._risk_B is not None:
            for row, risk in zip(rows, self._risk_B.tolist(), strict=True):
                row["risk"] = risk
        return rows


def cosine_distance(norms_EBN: torch.Tensor, away_BN: torch.Tensor) -> torch.Tensor:
    """``1 - cos(p_s, p_f)`` (B, N) in [0, 2], from the two norms and the norm of the difference.

    ``(||d||^2 - (||p_s|| - ||p_f||)^2) / (2 ||p_s|| ||p_f||)`` keeps its digits where the heads almost
    agree, which is most of the time; one minus a rounded cosine does not.
    """
    gap_BN = norms_EBN[0] - norms_EBN[1]
    twice_BN = 2.0 * norms_EBN[0] * norms_EBN[1]
    distance_BN = (away_BN**2 - gap_BN**2) / twice_BN.clamp_min(torch.finfo(away_BN.dtype).tiny)
    return distance_BN.clamp(0.0, 2.0)


def divergence(schedule: str, norms_EBN: torch.Tensor, away_BN: torch.Tensor) -> torch.Tensor:
    """What a schedule follows, (B, N): ``1 - c``, half of it, or ``||p_s - p_f|| / ||p_s||``."""
    if schedule == "l2":
        return away_BN / norms_EBN[0].clamp_min(torch.finfo(away_BN.dtype).tiny)
    distance_BN = cosine_distance(norms_EBN, away_BN)
    return 0.5 * distance_BN if schedule == "cosine_half" else distance_BN


@dataclass(frozen=True)
class Divergence:
    """How far two heads of a policy disagree while the first one acts.

    Attributes:
        mean: over observations, samples and steps; the ``scale`` for ``AFILOptions``.
        by_step: mean of each of the K denoising steps, noise first.
        n: number of chunks that were drawn.
    """

    mean: float
    by_step: tuple[float, ...]
    n: int


def measure_divergence(
    policy: GenerativePolicy,
    context: Context,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    schedule: Schedule = "cosine",
    success: str = "success",
    failure: str = "failure",
    samples: int = 1,
    steps: int | None = None,
) -> Divergence:
    """The mean divergence of two heads in a dry run: the success head acts, the failure head is only seen.

    Raises:
        SetupError: the schedule follows no divergence.
        DataError: the heads agree everywhere, so there is nothing to scale by.
    """
    if schedule not in DIVERGENCES:
        raise SetupError(f"schedule {schedule!r} follows no divergence; choose one of {', '.join(DIVERGENCES)}")
    watch = _Watch(schedule, (success, failure), samples)
    sample(policy, context, watch, generator, steps)
    by_step = tuple(torch.stack(watch.means).tolist())
    mean = sum(by_step) / len(by_step)
    if not mean > 0:
        raise DataError(
            f"heads {success!r} and {failure!r} agree everywhere (mean divergence 0); train the failure head first"
        )
    return Divergence(mean, by_step, context.batch * samples)


class _Watch(Unsteered):
    def __init__(self, schedule: str, heads: tuple[str, str], samples: int) -> None:
        self.schedule, self.heads, self.samples = schedule, heads, samples
        self.means: list[torch.Tensor] = []

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        norms_EBN = torch.linalg.vector_norm(predictions_EBNHA, dim=(-2, -1))
        away_BN = torch.linalg.vector_norm(predictions_EBNHA[0] - predictions_EBNHA[1], dim=(-2, -1))
        self.means.append(divergence(self.schedule, norms_EBN, away_BN).mean())
        return predictions_EBNHA[0]


def _checked_value(value_B: torch.Tensor, context: Context) -> torch.Tensor:
    if value_B.shape != (context.batch,):
        raise SetupError(f"the risk model gave shape {tuple(value_B.shape)}, expected ({context.batch},)")
    if not bool(((value_B >= 0) & (value_B <= 1)).all()):
        raise SetupError("the risk model must give probabilities in [0, 1]; apply a sigmoid to its logits")
    return value_B
