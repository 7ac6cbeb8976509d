"""MATLAB's .mat files, in which several data sets keep their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from train.data.errors import DataError


def read_matlab(path: Path, *names: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays called `names` in a .mat file, axes of length one dropped.

    Raises:
        DataError: If the file is damaged, or lacks one of them.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True, variable_names=names)
    except Exception as error:  # whatever a damaged file can make its reader raise
        raise DataError(f"{path} cannot be read as a MATLAB file ({error}): copy or download it again") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    return {name: np.asarray(content[name]) for name in names}
