"""How long does a step of each method take, and how long would its gradient passes take alone?

    python benchmarks/steps.py [--threads 1,2] [--rounds 30] [--out benchmarks/steps.md]

All methods take turns in one process, step by step, so that whatever else the machine does meets all alike. Columns:
minimum and median over the rounds; the bound, which is the sum of the method's own passes (forward, backward, on the
same parts of the same batch, nothing else); the step by that bound, and by the bound with the base optimizer's own step
added; the step by that of SGD and of SAM, with what the bounds alone would give. Ratios are of minima. The markdown
goes to stdout and to --out.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from train.batches import split
from train.methods import ASAM, SAM, AgnosticSAM, Descent, Method, SubsetSAM
from train.metrics import cross_entropy
from train.models import build

Part = tuple[Tensor, Tensor]
BATCH_SIZE = 128
NETWORKS = {"digits net: ResNet-8 on 1x8x8": (1, 8, 5), "small ResNet: ResNet-8 on 3x32x32": (3, 32, 1)}

# What is built, and which passes it makes: B the batch, t and v its parts of 90 and 38 examples.
METHODS: dict[str, tuple[Callable[[nn.Module, torch.optim.Optimizer], Method], str]] = {
    "sgd": (Descent, "B"),
    "sam": (SAM, "BB"),
    "asam": (ASAM, "BB"),
    "sam-subset": (SubsetSAM, "tt"),
    "agnostic-sam": (AgnosticSAM, "tvvt"),
    "agnostic-sam-simple": (lambda model, optimizer: AgnosticSAM(model, optimizer, variant="simple"), "tvt"),
}


@dataclass
class Subject:
    method: Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    parts: list[Part]
    steps: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)


def measure(channels: int, size: int, rounds: int) -> dict[str, Subject]:
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH_SIZE, channels, size, size, generator=stream)
    batch = inputs, torch.randint(0, 10, (BATCH_SIZE,), generator=stream)
    subjects = {name: _subject(name, batch, channels) for name in METHODS}
    for _ in range(rounds + 2):
        for subject in subjects.values():
            _make_passes(subject)  # untimed: the step must not pay for caches that hold another method's tensors
            subject.steps.append(_seconds(lambda subject=subject: subject.method.step(cross_entropy, batch)))
            subject.updates.append(_seconds(subject.optimizer.step))  # the gradients of the step are still there
            subject.passes.append(_seconds(lambda subject=subject: _make_passes(subject)))
    for subject in subjects.values():  # two to warm up
        del subject.steps[:2], subject.updates[:2], subject.passes[:2]
    return subjects


def _subject(name: str, batch: Part, channels: int) -> Subject:
    make, passes = METHODS[name]
    model = build("resnet8", in_channels=channels, num_classes=10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    first, second = split(batch, 0.7, model=model)
    parts = [{"B": batch, "t": first, "v": second}[letter] for letter in passes]
    return Subject(make(model, optimizer), model, optimizer, parts)


def _make_passes(subject: Subject) -> None:
    for part in subject.parts:
        subject.optimizer.zero_grad()
        cross_entropy(subject.model, part).backward()


def _seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def table(subjects: dict[str, Subject]) -> str:
    step = {name: 1000 * min(subject.steps) for name, subject in subjects.items()}
    bound = {name: 1000 * min(subject.passes) for name, subject in subjects.items()}
    lines = [
        "| method | passes | step, ms: min (median) | sum of passes, ms | step / passes | step / (passes + base step) "
        "| / SGD (passes alone) | / SAM (passes alone) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, subject in subjects.items():
        update = 1000 * min(subject.updates)
        cells = [
            name,
            METHODS[name][1],
            f"{step[name]:.2f} ({1000 * statistics.median(subject.steps):.2f})",
            f"{bound[name]:.2f}",
            f"{step[name] / bound[name]:.3f}",
            f"{step[name] / (bound[name] + update):.3f}",
            *(f"{step[name] / step[by]:.3f} ({bound[name] / bound[by]:.3f})" for by in ("sgd", "sam")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=30, help="the digits net gets five times as many")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    today = datetime.datetime.now(tz=datetime.UTC).date()
    text = [
        "# Time of a training step",
        f"`python benchmarks/steps.py --threads {options.threads} --rounds {options.rounds}`, {today}, {_machine()}. "
        f"Batch {BATCH_SIZE}, split 90/38 (t, v), SGD with momentum as base. What each column is, the script says. "
        "Where the passes alone already exceed a ratio, as four small passes on the tiny digits net do, their fixed "
        "cost sets it: no step around them can be cheaper.",
    ]
    for title, (channels, size, times) in NETWORKS.items():
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            before = os.getloadavg()[0]
            found = table(measure(channels, size, times * options.rounds))
            load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
            text += [f"## {title}, {threads} thread{'s' if threads > 1 else ''} ({load})", found]
            print("\n\n".join(text[-2:]), end="\n\n", flush=True)
    options.out.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
