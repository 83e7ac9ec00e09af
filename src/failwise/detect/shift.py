"""How unlike the episodes to come are to those that calibrate: likelihood ratios for weighted bands.

A classifier that tells two sets of episodes apart by how they begin gives the ratio of their densities, ``p / (1 - p)``
(density ratio estimation by classification, as in Tibshirani et al., arXiv 1904.06019, section 2.3). Each episode is
judged by a classifier that was not fitted on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from failwise.detect.conformal import Shift
from failwise.detect.trace import Trace, checkpoint
from failwise.errors import DataError

FEWEST = 10  # episodes on either side
PARTS = 5  # of the cross-fitting
STRENGTHS = np.logspace(-4, 0, 5)  # of the classifier's weights, chosen anew: it must not know single episodes


def shift_towards(successes: Sequence[Trace], others: Sequence[Trace], *, seed: int = 0) -> Shift:
    """Weights of calibration successes for a band that is to hold on other episodes.

    Only what the policy saw at the first inference is read, never how an episode ended. The ratio is estimated, so the
    bound holds as far as the estimate does. An episode to come is taken to weigh as much as the 95th percentile of the
    others: one band is to serve for all but the oddest of them.

    Args:
        successes: the calibration episodes.
        others: episodes like those to come, of any outcome.
        seed: of the cross-fitting.

    Raises:
        DataError: too few episodes of either kind, or features of different kinds or policies.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(successes), len(others)) < FEWEST:
        raise DataError(
            f"weights need at least {FEWEST} episodes of either kind, not {len(successes)} successes that calibrate "
            f"and {len(others)} others; collect more"
        )
    if successes[0].pooling != others[0].pooling or successes[0].features.shape[1:] != others[0].features.shape[1:]:
        raise DataError(f"the others have features {others[0].pooling}, those that calibrate {successes[0].pooling}")
    acted, other = (checkpoint(some[0].meta) for some in (successes, others))
    if acted and other and acted != other:
        raise DataError(
            f"the others are of checkpoint {other[:12]}, those that calibrate of {acted[:12]}: their features cannot "
            "be compared; collect with the policy that is to be watched"
        )
    x_MD = np.stack([t.features[0] for t in (*successes, *others)]).astype(np.float64)
    y_M = np.r_[np.zeros(len(successes)), np.ones(len(others))]
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    told = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, cv=inner, scoring="neg_log_loss")
    model = make_pipeline(StandardScaler(), told)
    folds = StratifiedKFold(PARTS, shuffle=True, random_state=seed)
    p_M = np.clip(cross_val_predict(model, x_MD, y_M, cv=folds, method="predict_proba")[:, 1], 1e-6, 1 - 1e-6)
    ratio_M = p_M / (1 - p_M) * len(successes) / len(others)
    return Shift(ratio_M[: len(successes)], float(np.quantile(ratio_M[len(successes) :], 0.95)))
