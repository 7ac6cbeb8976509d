"""What a results file keeps of the machine and the run that made it: versions that decide bits, and what it took."""

from __future__ import annotations

import platform
import resource
import sys
import time

import numpy as np
import torch

from landscape.results import Record


def versions() -> Record:
    """What the last bits of a result depend on besides its settings."""
    return {"torch": str(torch.__version__), "numpy": np.__version__, "threads": torch.get_num_threads()}


def run_record(command: str, seconds: float) -> Record:
    """The command, its time and date, the host, and the peak memory of this process in bytes, on a GPU's as well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    on_device: Record = {"peak_device_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}
    return {
        "command": command,
        "seconds": seconds,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "peak_bytes": peak,
        **on_device,
    }
