"""The log-ratio ``log p_f(x_t) / p_s(x_t)`` of two heads, tracked along one denoising chain.

Derived here, after the idea of Dynamic Negative Guidance (arXiv 2410.14398) of following the Markov chain
instead of training a classifier. With ``x = alpha a + sigma z`` the chain from ``t`` to ``t' > t`` that has
the same marginals has the Gaussian transition, for a head that predicts the clean action ``a_h``::

    q^2 = sigma^2 - (alpha / alpha')^2 sigma'^2
    var  = q^2 (sigma' / sigma)^2
    mu_h = (alpha / alpha') (sigma' / sigma)^2 x + alpha' (q / sigma)^2 a_h        x' | x  ~  N(mu_h, var I)

Both heads share ``var`` and the term in ``x``, so one step adds to the log-ratio::

    log N(x'; mu_f, var) - log N(x'; mu_s, var) = (mu_f - mu_s) . (x' - (mu_f + mu_s) / 2) / var

and it starts at 0, as both marginals are the noise at ``t = 0``. The sampler's steps are deterministic, so
``x'`` is no draw of that transition. In the limit of small steps the sum is still the exact log-ratio along
any deterministic path, up to ``- integral 1/2 g^2 (div s_f - div s_s) dt``, ``g^2 dt = var``: exact where
the two scores have the same divergence, as for Gaussians of equal covariance.
"""

from __future__ import annotations

import torch

from failwise.steer.process import Process


class LogRatio:
    """Tracks ``log p_f(x_t) / p_s(x_t)``, (B, N), along one chain. ``update`` before each step."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._last: tuple[float, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._ratio_BN: torch.Tensor | None = None

    def update(
        self, success_BNHA: torch.Tensor, failure_BNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float
    ) -> torch.Tensor:
        """The log-ratio (B, N) at ``noisy_BNHA``. Call once per step, in order."""
        clean_s = self._process.clean(success_BNHA, noisy_BNHA, t)
        clean_f = self._process.clean(failure_BNHA, noisy_BNHA, t)
        if self._last is None or self._ratio_BN is None:
            self._ratio_BN = noisy_BNHA.new_zeros(noisy_BNHA.shape[:2])
        else:
            self._ratio_BN = self._ratio_BN + step_log_ratio(self._process, *self._last, noisy_BNHA, t)
        self._last = (t, noisy_BNHA, clean_s, clean_f)
        return self._ratio_BN


def step_log_ratio(
    process: Process,
    t: float,
    noisy_BNHA: torch.Tensor,
    clean_success_BNHA: torch.Tensor,
    clean_failure_BNHA: torch.Tensor,
    next_BNHA: torch.Tensor,
    t_next: float,
) -> torch.Tensor:
    """What the step from ``noisy`` at ``t`` to ``next`` at ``t_next < 1`` adds to the log-ratio, (B, N)."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_next, sigma_next = process.alpha(t_next), process.sigma(t_next)
    ratio = alpha / alpha_next
    q2 = sigma**2 - ratio**2 * sigma_next**2
    keep, pull = ratio * (sigma_next / sigma) ** 2, alpha_next * q2 / sigma**2
    variance = q2 * (sigma_next / sigma) ** 2
    middle = keep * noisy_BNHA + pull * 0.5 * (clean_failure_BNHA + clean_success_BNHA)
    gap = pull * (clean_failure_BNHA - clean_success_BNHA)
    return (gap * (next_BNHA - middle)).sum(dim=(-2, -1)) / variance
