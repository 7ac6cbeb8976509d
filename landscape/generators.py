"""Random generators as they were: torch's, Python's, numpy's, and those of a loader."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's generators, the device's too, start from a seed."""
    if device.type == "cuda":
        with torch.random.fork_rng(devices=[device]):
            torch.manual_seed(seed)
            yield
        return
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # 2 microseconds, where fork_rng and manual_seed take 66
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def seeded_for_data(seed: int) -> Iterator[None]:
    """Inside, Python's and numpy's global generators, which a data set may draw from, start from a seed as torch's."""
    before = global_states()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        restore(before)


def global_states() -> tuple[Any, ...]:
    """Those of the global generators that a data set may draw from."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def restore(states: tuple[Any, ...]) -> None:
    """Put such states back."""
    of_torch, of_python, of_numpy = states
    torch.set_rng_state(of_torch)
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002


def generators_of(batches: object) -> list[torch.Generator]:
    """A loader's own generator, and those of its samplers."""
    holders = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    found = {
        id(own): own for holder in holders if isinstance(own := getattr(holder, "generator", None), torch.Generator)
    }
    return list(found.values())
