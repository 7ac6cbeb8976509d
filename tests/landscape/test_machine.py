import os
import platform

import numpy as np
import torch

from landscape.machine import run_record, versions


def test_what_decides_bits_is_told():
    assert versions() == {"torch": torch.__version__, "numpy": np.__version__, "threads": torch.get_num_threads()}


def test_a_run_is_told_with_what_it_took():
    ballast = np.ones(2**22)
    found = run_record("landscape hessian a.pt", 1.5)
    assert (found["command"], found["seconds"], found["host"]) == ("landscape hessian a.pt", 1.5, platform.node())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert ballast.nbytes < found["peak_bytes"] <= memory
    assert len(found["time"]) == len("2026-01-01T00:00:00+0000")
