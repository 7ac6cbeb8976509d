import json

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install -e '.[tensorboard]'")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.events import tensorboard_events
from train.loop import train


def events(folder):
    """Every number of the event files: (name, epoch, value), in their order."""
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = [name for name in lines[0] if name != "epoch" and lines[0][name] is not None]
    return {name: [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines] for name in measured}


def test_the_events_are_the_metrics_each_once_however_the_run_was_made(tiny, tmp_path):
    calls = []
    with tensorboard_events(tmp_path) as update:
        train(tiny, tmp_path, progress=lambda _: update(), stop=lambda: calls.append(1) or len(calls) == 3)
    assert events(tmp_path) == metrics(tmp_path)
    assert events(tmp_path)["train_loss"][-1][0] == 1
    with tensorboard_events(tmp_path) as update:
        train(tiny, tmp_path, resume=True, progress=lambda _: update())
    assert events(tmp_path) == metrics(tmp_path)
    assert [epoch for epoch, _ in events(tmp_path)["val_accuracy"]] == [1, 2]
    assert "ema_val_loss" not in events(tmp_path)
    train(tiny, tmp_path, force=True)
    assert list((tmp_path / "tensorboard").iterdir()) == []  # of the run that was replaced
    with tensorboard_events(tmp_path) as update:
        train(tiny, tmp_path, resume=True)
        update()
    assert events(tmp_path) == metrics(tmp_path)
