import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from train import compiled
from train.checkpoint import content_hash, read
from train.compiled import NotCompiledWarning, forward_pass
from train.config import TrainConfig
from train.data import load
from train.loop import train
from train.loss import plain
from train.models import build

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")


@pytest.fixture
def first(monkeypatch):
    """The forward pass that a run would take, with `fake` in the place of what torch compiles."""

    def chosen(fake=None, **settings):
        config = TrainConfig(compile=True, batch_size=32, **settings)
        splits = load(config)
        model = build("resnet8", in_channels=1, num_classes=10, seed=0)
        if fake is not None:
            monkeypatch.setattr(torch, "compile", lambda forward, **options: fake)
        before, state = content_hash(model.state_dict()), torch.get_rng_state()
        found = forward_pass(config, model, lambda: (splits.train[0][:32], splits.train[1][:32]))
        assert content_hash(model.state_dict()) == before
        assert torch.equal(torch.get_rng_state(), state)
        assert all(param.grad is None for param in model.parameters())
        return found

    return chosen


def test_nothing_is_compiled_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert forward_pass(TrainConfig(), torch.nn.Linear(1, 1), lambda: None) is plain


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_agrees_is_taken(first, precision):
    def same(model, inputs):
        return model(inputs)

    assert first(same, precision=precision) is same


def without_a_compiler(model, inputs):
    raise RuntimeError("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")


def with_another_loss(model, inputs):
    return model(inputs) * 1.1


def with_half_the_gradient(model, inputs):
    outputs = model(inputs)
    return (outputs + outputs.detach()) / 2


def with_statistics_that_always_move(model, inputs):
    for module in model.modules():
        module.__dict__["track_running_stats"] = True
    return model(inputs)


def with_statistics_that_never_move(model, inputs):
    with compiled.frozen_statistics(model):
        return model(inputs)


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (without_a_compiler, r"only slower: No working C\+\+ compiler found$"),
        (with_another_loss, "its loss on the first batch differs by .* from "),
        (with_half_the_gradient, "its gradient on the first batch differs"),
        (with_statistics_that_always_move, "num_batches_tracked on the first batch differs by .* from 0|running_mean"),
        (with_statistics_that_never_move, r"running_mean on the first batch differs"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_fails_or_differs_is_left_for_the_plain_pass_with_a_reason(first, fake, reason):
    with pytest.warns(NotCompiledWarning, match=reason) as caught:
        assert first(fake) is plain
    assert "\n" not in str(caught[0].message)


@needs_a_compiler
@pytest.mark.slow
def test_a_compiled_run_is_close_to_a_plain_one_and_resumes_bit_for_bit(tiny, tmp_path):
    config = dataclasses.replace(tiny, method="agnostic-sam", probe_every=1000, channels_last=True, ema=0.5)
    train(config, tmp_path / "plain")
    config = dataclasses.replace(config, compile=True)
    calls = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        train(config, tmp_path / "whole")
        train(config, tmp_path / "parts", stop=lambda: calls.append(1) or len(calls) == 3)
        train(config, tmp_path / "parts", resume=True)
    whole, parts, usual = (read(tmp_path / name) for name in ("whole", "parts", "plain"))
    assert list(whole.model) == list(usual.model)
    assert {int(value) for name, value in whole.model.items() if name.endswith("num_batches_tracked")} == {4}
    assert (content_hash(whole.model), whole.metrics) == (content_hash(parts.model), parts.metrics)
    assert content_hash(whole.optimizer["ema"]) == content_hash(parts.optimizer["ema"])
    assert whole.metrics["train_loss"] == pytest.approx(usual.metrics["train_loss"], rel=1e-2)


@pytest.mark.slow
def test_without_a_working_compiler_the_command_says_so_and_trains(tmp_path):
    words = ["train", "--compile", "--epochs", "1", "--out", str(tmp_path / "run"), "--json"]
    nothing = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words], env=os.environ | nothing, capture_output=True, text=True, check=True
    )
    assert "landscape: warning: the network runs uncompiled, only slower: " in done.stderr
    assert json.loads(done.stdout)["results"]["status"] == "finished"
