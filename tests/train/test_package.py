import subprocess
import sys

import pytest

import train


def test_public_names_are_these():
    assert train.__all__ == ["ASAM", "SAM", "AgnosticSAM", "MicroBatches", "TrainConfig"]
    assert all(getattr(train, name).__name__ == name for name in train.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sam'"):
        _ = train.Sam


def test_settings_are_checked_without_torch():
    code = "import sys, train; train.TrainConfig(method='sam'); assert 'torch' not in sys.modules; print('light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "light\n"
