"""The learning rate, as a pure function of the settings and the epoch: nothing to store, nothing to lose on resume.

Epochs count from 0; E epochs in all, W of them warm-up. For e < W the rate is lr (e + 1) / (W + 1). From then on, with
t = (e - W) / (E - W), it is

    cosine     lr (1 + cos(pi t)) / 2         Loshchilov and Hutter 2017 (arXiv:1608.03983), one period
    step       lr 0.2^k, k = how many of 0.3, 0.6, 0.8 are at most t
    constant   lr

The steps are those of the public code of OT-MDR, whose SAM column is that of arXiv:2406.07107.
"""

from __future__ import annotations

import math

from train.config import TrainConfig

STEP_FACTOR = 0.2
STEP_TENTHS = (3, 6, 8)  # of the epochs after warm-up; in whole tenths, for 0.6 * 10 is not 6 in binary


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of all steps of `epoch`, which counts from 0.

    Example:
        >>> config = TrainConfig(schedule="step", lr=1.0, epochs=10)
        >>> [round(learning_rate(config, epoch), 3) for epoch in (0, 3, 6, 9)]
        [1.0, 0.2, 0.04, 0.008]
    """
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + 1) / (config.warmup_epochs + 1)
    done, total = epoch - config.warmup_epochs, config.epochs - config.warmup_epochs
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * done / total)) / 2
    if config.schedule == "step":
        return config.lr * STEP_FACTOR ** sum(10 * done >= tenths * total for tenths in STEP_TENTHS)
    return config.lr
