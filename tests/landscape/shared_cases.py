"""What the processes of test_distributed.py do. A module of its own, for they are started fresh and import it."""

import hashlib
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from landscape.distributed import part_of, shared
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian

NUM_EXAMPLES = 101


def objective(seed=0, sums=False, num_ignored=0):
    """A net with BatchNorm in eval mode, weights of classes, an ignored class, and batches of 40, 40 and 21."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)).double()
    inputs, targets = torch.randn(NUM_EXAMPLES, 5).double(), torch.randint(0, 4, (NUM_EXAMPLES,))
    targets[:num_ignored] = 3
    batches = list(zip(inputs.split(40), targets.split(40), strict=True))
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]).double(), ignore_index=3)
    if sums:
        summed = nn.CrossEntropyLoss(reduction="sum")
        return Objective.from_sums(net, lambda model, b: (summed(model(b[0]), b[1]), len(b[1])), batches)
    return Objective(net, loss, batches)


def vectors():
    stream = torch.Generator().manual_seed(1)
    return torch.randn(3, objective().theta.numel(), dtype=torch.float64, generator=stream)


def everything(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    operator = shared(objective())
    pairs = top_eigenpairs(operator, k=2)
    found = {
        "hessian": operator.matvecs(vectors()),
        "one by one": torch.stack([operator.matvec(v) for v in vectors()]),
        "gauss-newton": shared(objective(), gauss_newton).matvecs(vectors()),
        "empirical fisher": shared(objective(), partial(fisher, kind="empirical")).matvecs(vectors()),
        "sums": shared(objective(sums=True)).matvecs(vectors()),
        "a part without a valid target": shared(objective(num_ignored=60)).matvecs(vectors()),
        "loss": operator.loss,
        "settings": {name: operator.settings[name] for name in ("data_hash", "num_examples", "num_processes")},
        "values": pairs.values.tolist(),
        "vectors": hashlib.sha256(pairs.vectors.tobytes()).hexdigest(),
        "own examples": part_of(objective(), rank, size).num_examples,
        "refused": [
            refusal(lambda: shared(objective(seed=rank))),
            refusal(lambda: shared(objective(), partial(hessian, batch_norm="train"))),
            refusal(lambda: shared(objective(), fisher)),
        ],
    }
    torch.save(found, Path(folder) / f"found-{rank}.pt")
    dist.destroy_process_group()


def refusal(action):
    try:
        action()
    except ValueError as error:
        return str(error)
    return "nothing"
