"""Random streams, each named by a seed and a purpose.

A stream is drawn on the CPU, so it is the same on every device, and no stream depends on what was drawn before it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose: the first 63 bits of a hash of both.

    Example:
        >>> derived_seed(0, "noise") == derived_seed(0, "noise"), derived_seed(0, "noise") == derived_seed(0, "split")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators of the CPU and of `device` start from `seed`; outside, they are as they were."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every other device too
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
