import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from train.config import TrainConfig
from train.data import load
from train.metrics import evaluate, probe_statistics
from train.models import build


def test_evaluate_is_the_mean_over_examples_in_eval_mode_and_leaves_the_model_alone():
    inputs, targets = load(TrainConfig()).train  # 1,078 examples: more than one chunk
    model = build("resnet8", in_channels=1, num_classes=10, seed=0)
    model.stem.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss, accuracy = evaluate(model, (inputs, targets))
    assert model.training
    assert not model.stem[1].training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        logits = model.eval()(inputs)
    assert loss == pytest.approx(float(functional.cross_entropy(logits.double(), targets)), rel=1e-6)
    assert accuracy == float((logits.argmax(1) == targets).double().mean())


def test_loss_is_weighted_by_examples_and_not_by_chunks():
    targets = torch.zeros(1025, dtype=torch.int64)
    inputs = torch.zeros(1025, 2)
    inputs[-1, 1] = 1000.0  # alone in the second chunk
    loss, accuracy = evaluate(nn.Identity(), (inputs, targets))
    assert loss == pytest.approx((1024 * math.log(2) + 1000) / 1025, rel=1e-6)
    assert accuracy == 1024 / 1025


def test_probe_statistics_of_none_one_and_an_undefined_probe():
    assert probe_statistics([])["num_probes"] == 0
    assert {value for key, value in probe_statistics([]).items() if key != "num_probes"} == {None}
    one = probe_statistics([(0.25, 0.5)])
    assert (one["cosine_b"], one["cosine_a"], one["change"], one["num_probes"]) == (0.25, 0.5, 0.25, 1)
    assert one["change_standard_error"] is None
    undefined = probe_statistics([(0.25, math.nan), (0.5, 0.5)])
    assert (undefined["cosine_b"], undefined["cosine_a"], undefined["change"]) == (0.375, None, None)
    assert undefined["cosine_b_standard_error"] == pytest.approx(0.125)
    assert undefined["change_standard_error"] is None
