"""What the processes of test_distributed.py do. A module of its own, for they are started fresh and import it."""

import contextlib
import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from landscape import ledger
from landscape.distributed import ToldError, from_first, part_of, shared, shared_gradient, together
from landscape.following import curvature_trace
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian

NUM_EXAMPLES = 101
PLAN = {"command": "hessian"}


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
    operator, gradient = shared(objective()), CountedGradient()
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
        "through": through(shared, gradient),
        "examples in gradients": gradient.seen,
        "gradient": shared_gradient(objective()),
        "gradient elsewhere": shared_gradient(objective(), 2 * objective().theta),
        "gradient of sums": shared_gradient(objective(sums=True)),
        "gradient of a part without a valid target": shared_gradient(objective(num_ignored=60)),
        "from the first": from_first(lambda: f"process {rank}"),
        "stopped": goes_on(folder, limit=7 if rank == 0 else None),
        "gone on": goes_on(folder),
    }
    torch.save(found, Path(folder) / f"found-{rank}.pt")
    dist.destroy_process_group()


class CountedGradient:
    """The shared gradient; how many examples went through the model in this process, gradients alone."""

    def __init__(self):
        self.seen = 0

    def __call__(self, objective, theta):
        def see(_, inputs):
            self.seen += len(inputs[0]) if torch.is_grad_enabled() else 0

        handle = objective.model.register_forward_pre_hook(see)
        try:
            return shared_gradient(objective, theta)
        finally:
            handle.remove()


def through(operator_of, gradient_of=Objective.gradient):
    """Two checkpoints, followed."""
    run = [(epoch, objective(seed=epoch)) for epoch in (1, 2)]
    trace = curvature_trace(run, k=2, tolerance=1e-8, operator_of=operator_of, gradient_of=gradient_of)
    return [getattr(trace, name).tolist() for name in ("values", "overlap", "along_gradient", "along_sam", "loss")]


def refusals(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    refused = [
        refusal(lambda: shared(objective(seed=rank))),
        refusal(lambda: shared(objective(), partial(hessian, batch_norm="train"))),
        refusal(lambda: shared(objective(), fisher)),
        refusal(lambda: shared(objective(), protocol)),
        refusal(lambda: shared(objective()).matvec(vectors()[rank])),
        refusal(lambda: shared(objective(), partial(failing, rank=rank)).matvec(vectors()[0])),
        refusal(lambda: shared(objective(num_ignored=NUM_EXAMPLES))),
        refusal(lambda: shared_gradient(objective(num_ignored=NUM_EXAMPLES))),
        refusal(lambda: shared_gradient(objective(), vectors()[rank])),
        refusal(lambda: together(lambda: together(lambda: fail(rank)))),
    ]
    torch.save(refused, Path(folder) / f"refused-{rank}.pt")
    dist.destroy_process_group()


def refusal(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def protocol(part):
    return replace(hessian(part), settings={"protocol": "paper"})


def failing(part, rank):
    return replace(hessian(part), matvec=lambda v: fail(rank))


def fail(rank):
    if rank == 1:
        raise MemoryError("too large")
    return torch.zeros(objective().theta.numel()).double()


def goes_on(folder, limit=None):
    """The eigenvalues with a ledger, and how many products were made; stopped in the first process by an error."""
    operator, made = shared(objective()), []

    def matvec(v):
        if len(made) == limit:
            raise MemoryError("too large")
        product = operator.matvec(v)
        made.append(v)
        return product

    def measure(replayed):
        return [top_eigenpairs(replayed(replace(operator, matvec=matvec, matvecs=None)), k=2)]

    with contextlib.suppress(MemoryError, ToldError), ledger.opened(Path(folder) / "journal", PLAN, anew=False) as kept:
        pairs = together(lambda: kept.step("one", measure))[0]
        return len(made), pairs.values.tolist()
    return len(made), None
