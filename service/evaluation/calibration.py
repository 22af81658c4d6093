"""Platt scaling fitted to judged pairs."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np
from sklearn.linear_model import LogisticRegression

from service.core.scoring import Calibration
from service.errors import ConfigError

Item = TypeVar("Item")


def fit(margins: Sequence[float], labels: Sequence[bool]) -> Calibration:
    """The logistic regression of the labels on the margins, without a penalty (Platt 1999, without his priors).

    Raises:
        ConfigError: the labels are all the same, or relevant pairs don't have the larger margins: then there is
            nothing to calibrate.
    """
    if len(set(labels)) < 2:
        raise ConfigError("the pairs must be relevant ones and others: all of these are judged alike", field="pairs")
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(np.asarray(margins)[:, None], np.asarray(labels, dtype=int))
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        raise ConfigError(f"the slope is {slope:.4f}: relevant pairs don't score higher, so nothing is written")
    return Calibration(slope, intercept)


def halves(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Two random halves, the first to fit to and the second held out."""
    mixed = list(items)
    Random(seed).shuffle(mixed)
    middle = (len(mixed) + 1) // 2
    return mixed[:middle], mixed[middle:]
