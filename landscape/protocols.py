"""What exactly a published eigenvalue is of, where that is not the Hessian of the mean loss over all parameters.

"paper" is what the numbers "on the log scale" of arXiv:2406.07107 most likely are: the script that its first author's
public code points to (that of Maddox et al. 2019, arXiv:1902.02476) sums the Hessians of the batches' mean losses,
undivided, over the parameters with more than one dimension, in eval mode. Batches are taken as 128 here,
and the data as it is, where that script draws new augmentations for each product, which makes its operator noisy. An
eigenvalue is nearly the number of batches times one of the mean loss: compare ratios between checkpoints, not digits.

Legend: B batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from landscape.batches import Batch
from landscape.objective import Objective
from landscape.operators import SymmetricOperator, hessian
from landscape.results import Record

PAPER_BATCH_SIZE = 128


def paper_hessian(objective: Objective) -> SymmetricOperator:
    """The sum of the Hessians of the mean cross-entropies of batches of 128, over weights of 2 dimensions or more.

    `loss` is the mean of the batches' means. The last batch may be short, and counts as much as the others.

    Raises:
        ValueError: If the loss is not a plain cross-entropy, no parameter has two dimensions, or batches cannot be cut.
    """
    loss = objective.loss
    plain = isinstance(loss, nn.CrossEntropyLoss) and loss.weight is None and not loss.label_smoothing
    if not plain or not objective.may_cut:
        raise ValueError(
            "the protocol of the paper is of the plain cross-entropy of single examples, in batches of 128"
        )
    names = weights_of(objective)
    batches = [*_in_batches(objective)]
    summed = Objective.from_sums(objective.model, _mean_loss, batches)
    found, num = hessian(summed, only=names), len(batches)
    settings: Record = {
        **found.settings,
        **{name: value for name, value in objective.describe().items() if name in ("num_examples", "data_hash")},
        "protocol": "paper",
        "num_batches": num,
    }
    return replace(found, matvec=lambda v: num * found.matvec(v), matvecs=None, settings=settings)


def weights_of(objective: Objective) -> set[str]:
    """The names of the parameters with two dimensions or more.

    Raises:
        ValueError: If there are none.
    """
    names = {name for name, shape in objective.shapes.items() if len(shape) > 1}
    if not names:
        raise ValueError("the protocol of the paper is of parameters with two dimensions or more: there are none")
    return names


def _mean_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
    return F.cross_entropy(model(batch[0]), batch[1]), 1.0


def _in_batches(objective: Objective) -> Iterator[Batch]:
    """The data in batches of 128, the last one shorter."""
    pieces = list(objective.read())
    inputs, targets = (torch.cat([piece[place] for piece in pieces]) for place in (0, 1))
    yield from zip(inputs.split(PAPER_BATCH_SIZE), targets.split(PAPER_BATCH_SIZE), strict=True)  # type: ignore[no-untyped-call]
