"""What the processes of test_distributed.py do: each case makes some steps and hands back what it found.

A module of its own, for the processes are started fresh and import it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from train.batches import Parts, part_sizes
from train.checkpoint import read
from train.config import TrainConfig
from train.distributed import Workers, workers
from train.loop import train
from train.methods import ASAM, SAM, AgnosticSAM, Descent, MicroBatches, SubsetSAM

NUM_STEPS, NUM_EXAMPLES = 3, 23
MAKERS = {
    "sgd": lambda model, optimizer, **options: Descent(model, optimizer, sync=options.get("sync")),
    "sam": lambda model, optimizer, **options: SAM(model, optimizer, rho=0.3, **options),
    "asam": lambda model, optimizer, **options: ASAM(model, optimizer, rho=0.3, **options),
    "sam-subset": lambda model, optimizer, **options: SubsetSAM(model, optimizer, rho=0.3, **options),
    "agnostic-sam": lambda model, optimizer, **options: AgnosticSAM(model, optimizer, rho1=0.3, rho2=0.2, **options),
    "agnostic-sam-simple": lambda model, optimizer, **options: AgnosticSAM(
        model, optimizer, rho1=0.3, rho2=0.2, variant="simple", **options
    ),
}


class Net(nn.Module):
    """Smooth, in float64, without BatchNorm, and with a layer that the loss uses only where it is asked to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.side = nn.Linear(5, 3)
        self.double()

    def forward(self, x, side=False):
        return self.body(x) + self.side(x) if side else self.body(x)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def examples(step):
    stream = torch.Generator().manual_seed(100 + step)
    x = torch.randn(NUM_EXAMPLES, 5, dtype=torch.float64, generator=stream)
    return x, torch.randint(3, (NUM_EXAMPLES,), generator=stream)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)


def bounds(size, count=NUM_EXAMPLES):
    """Uneven on purpose: each process has about twice the examples of the one before."""
    ends = [round(count * (2**k - 1) / (2**size - 1)) for k in range(size + 1)]
    return list(itertools.pairwise(ends))


def mine(batch, me: Workers):
    start, stop = bounds(me.size, len(batch[1]))[me.rank]
    return batch[0][start:stop], batch[1][start:stop]


def run(name, batch_of, **options):
    """Parameters and losses after a few steps."""
    model = Net()
    method = MAKERS[name](model, optimizer_of(model), **options)
    max_grad_norm = 0.5 if name == "sam" else None
    losses = [float(method.step(loss, batch_of(step), max_grad_norm=max_grad_norm)) for step in range(NUM_STEPS)]
    return [p.detach().clone() for p in model.parameters()], losses, method.num_skipped


def split_then_shared(step, me):
    x, y = examples(step)
    first, _ = part_sizes(len(y), 0.7)
    return Parts(mine((x[:first], y[:first]), me), mine((x[first:], y[first:]), me))


def global_case(name, me):
    if name in ("sgd", "sam", "asam"):
        return run(name, lambda step: mine(examples(step), me), sync="global")
    return run(name, lambda step: split_then_shared(step, me), sync="global")


def local_case(name, me):
    return run(name, lambda step: mine(examples(step), me), sync="local")


def chunks_case(name, me):
    """Chunks of 4 of all examples, dealt to the processes."""

    def dealt(step):
        x, y = examples(step)
        part = me.share(math.ceil(len(y) / 4))
        return x[part.start * 4 : part.stop * 4], y[part.start * 4 : part.stop * 4]

    return run(name, dealt, m=4, sync="local")


def accumulated_case(me):
    def pieces(step):
        x, y = mine(examples(step), me)
        half = max(1, len(y) // 2)
        return MicroBatches([(x[:half], y[:half]), (x[half:], y[half:])] if len(y) > 1 else [(x, y)])

    return run("sam", pieces, sync="global")


def skipped_case(me):
    """The loss of the last process is NaN in its second step."""
    model = Net()
    method = SAM(model, optimizer_of(model), rho=0.1, sync="local")
    kept, calls = [], []

    def broken(model, batch):
        calls.append(1)
        value = loss(model, batch)
        return value * math.nan if me.rank == me.size - 1 and len(calls) in (3, 4) else value

    for step in range(NUM_STEPS):
        method.step(broken, mine(examples(step), me))
        kept.append(([p.detach().clone() for p in model.parameters()], method.num_skipped))
    return kept


def scaled_case(me):
    """A GradScaler, and an infinite loss in one process: all of them back off alike."""
    model = Net().float()
    method = AgnosticSAM(model, optimizer_of(model), sync="local")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scales = []

    def broken(model, batch):
        value = loss(model, batch)
        return value * math.inf if me.rank == 0 and scaler.get_scale() == 2.0**10 else value

    for step in range(NUM_STEPS):
        x, y = examples(step)
        method.step(broken, mine((x.float(), y), me) if me.size == 2 else (x.float(), y), scaler=scaler)
        scales.append(scaler.get_scale())
    return scales, method.num_skipped, [p.detach().clone() for p in model.parameters()]


def unused_case(me, *, used_by):
    """A layer that only some processes use; what weight decay does to it says whether it got a gradient."""
    model = Net()
    method = SAM(model, optimizer_of(model), rho=0.1, sync="global")
    side = me.rank in used_by
    method.step(
        lambda model, batch: nn.functional.cross_entropy(model(batch[0], side=side), batch[1]), mine(examples(0), me)
    )
    return model.side.weight.grad is None, [p.detach().clone() for p in model.parameters()]


def wrapped_case(me):
    """SAM around DistributedDataParallel, with parts of equal size."""
    model = Net()
    del model.side  # DistributedDataParallel wants all parameters used
    wrapped = DistributedDataParallel(model)
    method = SAM(wrapped, optimizer_of(model), rho=0.3)
    for step in range(NUM_STEPS):
        x, y = examples(step)
        even = len(y) // me.size
        rows = slice(me.rank * even, (me.rank + 1) * even)
        method.step(loss, (x[rows], y[rows]))
    return [p.detach().clone() for p in model.parameters()]


def refused_case(me):
    """Errors: in every process, with the words of the one that had it."""
    model = Net()
    found = {}

    def note(name, action):
        try:
            found[name] = action()
        except Exception as error:
            found[name] = (type(error).__name__, str(error))

    note("chunks", lambda: run("sam", lambda step: mine(examples(step), me), m=2, sync="global"))
    note("wrapped", lambda: SAM(DistributedDataParallel(model, find_unused_parameters=True), None, sync="local"))
    note("one", lambda: me.together(lambda: _raise(ValueError("mine alone")) if me.rank == me.size - 1 else me.rank))
    note("all", lambda: me.together(lambda: _raise(ValueError(f"by {me.rank}"))))
    note("first", lambda: me.from_first(lambda: _raise(OSError("no disk"))))
    note("fine", lambda: me.from_first(lambda: {"rank": me.rank}))
    note("together", lambda: me.together(lambda: me.rank))
    return found


def runs_case(me, folder):
    """A run that is stopped after its first epoch and continued, beside one that is not; then once more."""
    config = TrainConfig(method="agnostic-sam", epochs=2, batch_size=512, label_noise=0.2, sam_sync="local")

    def stop(progress):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(config, folder / "stopped", progress=stop)
    outcomes = [
        train(config, folder / "whole"),
        train(config, folder / "stopped", resume=True),
        train(config, folder / "stopped", resume=True),
    ]
    try:
        train(config, folder / "whole")
    except Exception as error:
        refused = type(error).__name__
    return [(one.status, one.metrics, one.already_finished, one.message) for one in outcomes], refused


def uneven_case(folder):
    config = TrainConfig(method="sam", epochs=1, batch_size=96, m=32, probe_every=1000)
    outcome = train(config, folder / "uneven")
    dist.barrier()  # until the first process has written it
    state = read(folder / "uneven").model
    tracked = {int(value) for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert len(tracked) == 1
    return outcome.status, tracked.pop(), outcome.metrics["train_loss"]


def _raise(error):
    raise error


def everything(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    me = workers()
    found = {
        **{f"global {name}": global_case(name, me) for name in MAKERS},
        **{f"local {name}": local_case(name, me) for name in MAKERS},
        **{f"chunks {name}": chunks_case(name, me) for name in MAKERS if name != "sgd"},
        "accumulated": accumulated_case(me),
        "skipped": skipped_case(me),
        "scaled": scaled_case(me),
        "unused": unused_case(me, used_by=()),
        "unused by some": unused_case(me, used_by=(0,)),
        "wrapped": wrapped_case(me),
        "refused": refused_case(me),
        "runs": runs_case(me, Path(folder)) if size == 2 else None,
        "uneven": uneven_case(Path(folder)) if size == 2 else None,
    }
    torch.save(found, Path(folder) / f"found-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # DistributedDataParallel keeps the group and its threads alive; one that lets go of a tensor while the interpreter
    # ends aborts the process, seldom (pytorch#190489). Nothing is left to do, so the interpreter does not end.
    os._exit(0)
