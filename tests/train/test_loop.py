import dataclasses
import json
import math
import warnings

import pytest
import torch

from train import loop, run
from train.checkpoint import CheckpointError, content_hash, read, restore, save
from train.config import METHODS, TrainConfig
from train.data import batch_order, load
from train.loop import (
    OutputExistsError,
    SettingsDifferError,
    cross_entropy,
    evaluate,
    gradients_per_step,
    probe_interval,
    train,
)
from train.methods import AgnosticSAM
from train.models import build
from train.precision import RoundedPerturbationWarning
from train.schedule import learning_rate

KEYS = [
    *("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("ema_val_loss", "ema_val_accuracy", "learning_rate", "seconds"),
    *("num_gradients", "cosine_b", "cosine_a", "change"),
    *("cosine_b_standard_error", "cosine_a_standard_error", "change_standard_error", "num_probes"),
]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(folder)]


def everything(folder, name="last.pt"):
    """All tensors and values of a checkpoint, flattened by name."""
    found = {}

    def walk(prefix, value):
        if isinstance(value, dict | list | tuple):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{prefix}.{key}", item)
        else:
            found[prefix] = value

    walk("", dataclasses.asdict(read(folder / name)))
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    differing = [k for k in a if not (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k])]
    assert differing == []
    assert sum(isinstance(value, torch.Tensor) for value in a.values()) >= 56


class StopError(Exception):
    pass


def stop_after(epoch):
    def progress(state):
        if state.epoch == epoch:
            raise StopError

    return progress


def test_a_run_writes_its_folder_and_its_metrics_with_exactly_these_keys(tiny, tmp_path):
    seen = []
    outcome = train(tiny, tmp_path / "run", progress=seen.append)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.pt",
        "config.toml",
        "last.pt",
        "metrics.jsonl",
    ]
    assert TrainConfig.from_toml((tmp_path / "run" / "config.toml").read_text()) == tiny
    found = lines(tmp_path / "run")
    assert [list(line) for line in found] == [KEYS, KEYS]
    assert [(line["epoch"], line["step"], line["num_probes"]) for line in found] == [(1, 2, 2), (2, 4, 2)]
    assert [line["learning_rate"] for line in found] == pytest.approx([0.1, 0.05])
    assert all(line.pop(name) is None for line in found for name in ("ema_val_loss", "ema_val_accuracy"))
    assert all(math.isfinite(value) for line in found for value in line.values())
    assert 0 < found[0]["seconds"] < found[1]["seconds"]
    assert (outcome.status, outcome.epoch, outcome.step, outcome.already_finished) == ("finished", 2, 4, False)
    assert [(state.epoch, state.epochs) for state in seen] == [(1, 2), (2, 2)]
    assert seen[0].metrics["val_loss"] == found[0]["val_loss"]
    images = [line["step"] * tiny.batch_size for line in found]
    assert [state.images_per_second for state in seen] == [
        n / line["seconds"] for n, line in zip(images, found, strict=True)
    ]


def test_a_run_is_the_plain_loop_that_anyone_would_write(tiny, tmp_path):
    train(tiny, tmp_path)
    splits, model = load(tiny), build("resnet8", in_channels=1, num_classes=10, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * epoch / 2)) / 2
        for rows in batch_order(3, epoch, 1078, 512):
            optimizer.zero_grad()
            cross_entropy(model, (splits.train[0][rows], splits.train[1][rows])).backward()
            optimizer.step()
    assert content_hash(read(tmp_path).model) == content_hash(model.state_dict())


def test_nesterov_looks_ahead_with_the_momentum_as_sutskever_2013_has_it(tiny, tmp_path):
    config = dataclasses.replace(tiny, nesterov=True, weight_decay=0.0)
    train(config, tmp_path)
    splits, model = load(config), build("resnet8", in_channels=1, num_classes=10, seed=3)
    velocity = [torch.zeros_like(param) for param in model.parameters()]
    for epoch in range(2):
        for rows in batch_order(3, epoch, 1078, 512):
            loss = cross_entropy(model, (splits.train[0][rows], splits.train[1][rows]))
            gradient = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for param, v, g in zip(model.parameters(), velocity, gradient, strict=True):
                    v.mul_(0.9).add_(g)
                    param -= learning_rate(config, epoch) * (g + 0.9 * v)
    found = read(tmp_path).model
    assert all(torch.allclose(found[name], value, atol=1e-5) for name, value in model.state_dict().items())


def test_the_metrics_are_those_of_the_checkpoint(tiny, tmp_path):
    outcome = train(tiny, tmp_path)
    checkpoint = read(tmp_path)
    model, splits = restore(checkpoint)
    last = lines(tmp_path)[-1]
    assert (last["train_loss"], last["train_accuracy"]) == evaluate(model, splits.train)
    assert (last["val_loss"], last["val_accuracy"]) == evaluate(model, splits.validation)
    assert (outcome.test_loss, outcome.test_accuracy) == evaluate(model, splits.test)
    assert checkpoint.metrics["test_accuracy"] == outcome.test_accuracy
    assert "seconds" not in checkpoint.metrics
    best = read(tmp_path / "best.pt")
    assert outcome.best_test_accuracy == evaluate(restore(best)[0], splits.test)[1]
    accuracies = [line["val_accuracy"] for line in lines(tmp_path)]
    assert best.epoch == outcome.metrics["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert outcome.metrics["best_val_accuracy"] == max(accuracies)


def test_without_a_validation_part_nothing_is_chosen_and_the_run_resumes_bit_for_bit(tiny, tmp_path):
    config = dataclasses.replace(tiny, val_fraction=0)
    outcome = train(config, tmp_path / "whole")
    assert not (tmp_path / "whole/best.pt").exists()
    assert [(line["val_loss"], line["val_accuracy"]) for line in lines(tmp_path / "whole")] == [(None, None)] * 2
    chosen = ("best_epoch", "best_val_accuracy", "best_test_loss", "best_test_accuracy")
    assert {outcome.metrics[name] for name in chosen} == {None}
    assert outcome.best_test_accuracy is None
    assert outcome.test_accuracy == evaluate(restore(read(tmp_path / "whole"))[0], load(config).test)[1]
    assert read(tmp_path / "whole").data["num_validation"] == 0
    with pytest.raises(StopError):
        train(config, tmp_path / "parts", progress=stop_after(1))
    train(config, tmp_path / "parts", resume=True)
    assert_same(everything(tmp_path / "whole"), everything(tmp_path / "parts"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_the_average_is_the_sum_that_its_decay_stands_for_with_the_statistics_of_the_last_step(tiny, tmp_path):
    config = dataclasses.replace(tiny, ema=0.7)
    outcome = train(config, tmp_path)
    splits, model = load(config), build("resnet8", in_channels=1, num_classes=10, seed=3)
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    visited = [{name: param.detach().double().clone() for name, param in model.named_parameters()}]
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = learning_rate(config, epoch)
        for rows in batch_order(3, epoch, 1078, 512):
            optimizer.zero_grad()
            cross_entropy(model, (splits.train[0][rows], splits.train[1][rows])).backward()
            optimizer.step()
            visited.append({name: param.detach().double().clone() for name, param in model.named_parameters()})
    weights = [0.7**4, *(0.3 * 0.7 ** (4 - step) for step in range(1, 5))]
    found, last = read(tmp_path / "ema.pt"), read(tmp_path)
    for name in names:
        expected = sum(weight * at[name] for weight, at in zip(weights, visited, strict=True))
        assert torch.allclose(found.model[name].double(), expected, atol=1e-6)
    buffers = found.model.keys() - set(names)
    assert len(buffers) > 10
    assert all(torch.equal(found.model[name], last.model[name]) for name in buffers)
    average, splits = restore(found)
    metrics = lines(tmp_path)[-1]
    assert (metrics["ema_val_loss"], metrics["ema_val_accuracy"]) == evaluate(average, splits.validation)
    measured = (outcome.metrics["ema_test_loss"], outcome.metrics["ema_test_accuracy"])
    assert measured == evaluate(average, splits.test) != evaluate(restore(last)[0], splits.test)


def test_an_average_goes_on_within_an_epoch_and_is_no_run_to_go_on_with(tiny, tmp_path):
    config = dataclasses.replace(tiny, ema=0.5, epochs=3)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", stop=stop_at(3))
    assert read(tmp_path / "parts/ema.pt").step == 2  # of the last whole epoch
    train(config, tmp_path / "parts", resume=True)
    assert_same(everything(tmp_path / "whole"), everything(tmp_path / "parts"))
    average = [content_hash(read(tmp_path / name / "ema.pt").model) for name in ("whole", "parts")]
    assert average[0] == average[1] != content_hash(read(tmp_path / "whole").model)
    train(config, tmp_path / "parts", force=True, stop=stop_at(3))
    (tmp_path / "parts/ema.pt").replace(tmp_path / "parts/last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be continued from: it is an ema\.pt"):
        train(config, tmp_path / "parts", resume=True)
    train(tiny, tmp_path / "whole", force=True)
    assert not (tmp_path / "whole/ema.pt").exists()


def test_a_skipped_step_does_not_move_the_average(tiny, tmp_path, monkeypatch):
    moves = []
    monkeypatch.setattr(loop, "update_", lambda *models, decay: moves.append(decay))
    monkeypatch.setattr(run, "GradScaler", lambda device: torch.amp.GradScaler(device, init_scale=2.0**20))
    outcome = train(dataclasses.replace(tiny, precision="fp16", ema=0.9, epochs=6), tmp_path)
    num_skipped = read(tmp_path).optimizer["num_skipped"]
    assert 0 < num_skipped < outcome.step
    assert moves == [0.9] * (outcome.step - num_skipped)


def test_best_stays_at_the_first_of_equal_epochs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda model, part, workers: (1.0, 0.5))
    outcome = train(dataclasses.replace(tiny, epochs=3), tmp_path)
    assert (outcome.metrics["best_epoch"], read(tmp_path / "best.pt").epoch, outcome.epoch) == (1, 1, 3)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_twice_gives_identical_tensors_and_metrics(tiny, tmp_path, method):
    config = dataclasses.replace(tiny, method=method)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(config, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    train(config, tmp_path / "b")
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_another_seed_and_another_method_give_another_run(tiny, tmp_path):
    hashes = set()
    for index, changes in enumerate(
        [{}, {"seed": 4}, {"data_seed": 1}, *({"method": method} for method in METHODS[1:])]
    ):
        train(dataclasses.replace(tiny, epochs=1, **changes), tmp_path / str(index))
        hashes.add(content_hash(read(tmp_path / str(index)).model))
    assert len(hashes) == 9


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny, tmp_path, method):
    config = dataclasses.replace(tiny, method=method)
    train(config, tmp_path / "whole")
    with pytest.raises(StopError):
        train(config, tmp_path / "parts", progress=stop_after(1))
    assert read(tmp_path / "parts").epoch == 1
    spent = lines(tmp_path / "parts")[0]["seconds"]
    outcome = train(config, tmp_path / "parts", resume=True)
    assert (outcome.status, outcome.epoch, outcome.already_finished) == ("finished", 2, False)
    for name in ("last.pt", "best.pt"):
        assert_same(everything(tmp_path / "whole", name), everything(tmp_path / "parts", name))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    seconds = [line["seconds"] for line in lines(tmp_path / "parts")]
    assert seconds[0] == spent
    assert seconds == sorted(seconds)


def stop_at(step):
    """What `train` asks after each step: to stop after so many of this process."""
    calls = []

    def stop():
        calls.append(1)
        return len(calls) == step

    return stop


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(tiny, tmp_path, method):
    config = dataclasses.replace(tiny, method=method, batch_size=256)  # four steps an epoch
    train(config, tmp_path / "whole")
    outcome = train(config, tmp_path / "parts", stop=stop_at(6))
    assert (outcome.status, outcome.epoch, outcome.step) == ("stopped", 1, 6)
    assert outcome.message == "stopped after 1 whole epochs and step 6, which last.pt holds"
    half = read(tmp_path / "parts")
    assert (half.epoch, half.step, half.metrics["step"], len(half.schedule["so_far"]["probes"])) == (1, 6, 4, 2)
    assert len(lines(tmp_path / "parts")) == 1
    assert restore(half)[0].training is False
    train(config, tmp_path / "parts", resume=True)
    for name in ("last.pt", "best.pt"):
        assert_same(everything(tmp_path / "whole", name), everything(tmp_path / "parts", name))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    assert lines(tmp_path / "parts")[1]["seconds"] > half.schedule["so_far"]["seconds"]


def test_a_run_stopped_after_every_single_step_is_the_same_run(tiny, tmp_path):
    config = dataclasses.replace(tiny, precision="fp16", method="agnostic-sam", rho1=1.0, rho2=0.5, epochs=3)
    train(config, tmp_path / "whole")
    found = [train(config, tmp_path / "parts", stop=lambda: True)]
    while found[-1].status == "stopped":
        found.append(train(config, tmp_path / "parts", resume=True, stop=lambda: True))
    assert [(at.status, at.epoch, at.step) for at in found] == [
        *(
            ("stopped", (step - 1) // 2, step) for step in range(1, 7)
        ),  # the last of an epoch too: it is not measured yet
        ("finished", 3, 6),
    ]
    for name in ("last.pt", "best.pt"):
        assert_same(everything(tmp_path / "whole", name), everything(tmp_path / "parts", name))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_weights_that_overflow_in_the_step_that_stops_are_not_saved(tiny, tmp_path, monkeypatch):
    def overflow(optimizer):
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(torch.optim.SGD, "step", overflow)
    monkeypatch.setattr(loop, "_probe", lambda run, batch: 0.5)
    outcome = train(tiny, tmp_path, stop=lambda: True)
    assert (outcome.status, read(tmp_path).step) == ("diverged", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 7}, r"step 7 of epoch 1, with 2 steps an epoch"),
        ({"step": 1}, r"step 1 of epoch 1, with 2 steps an epoch"),
        ({"schedule": {}}, r"step 3 of epoch 1, with 2 steps an epoch"),
        ({"schedule": {"so_far": {"seconds": 1.0}}}, "cannot be continued from: 'probes'"),
        ({"schedule": {"so_far": {"seconds": 1.0, "probes": [1.0]}}}, "cannot be continued from"),
    ],
)
def test_a_half_epoch_that_does_not_add_up_is_refused(tiny, tmp_path, changes, message):
    train(tiny, tmp_path, stop=stop_at(3))
    save(dataclasses.replace(read(tmp_path), **changes), tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=message):
        train(tiny, tmp_path, resume=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "step", "epochs": 3},
        {"schedule": "constant"},
        {"warmup_epochs": 1},
        {"label_smoothing": 0.1},
        {"nesterov": True},
        {"ema": 0.5},
        {"channels_last": True, "ema": 0.5},
        {"save_every": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_option_of_the_loop_resumes_bit_for_bit(tiny, tmp_path, changes):
    config = dataclasses.replace(tiny, method="agnostic-sam", **changes)
    train(config, tmp_path / "whole")
    with pytest.raises(StopError):
        train(config, tmp_path / "parts", progress=stop_after(1))
    train(config, tmp_path / "parts", resume=True)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names
    for name in names:
        if name.endswith(".pt"):
            assert_same(everything(tmp_path / "whole", name), everything(tmp_path / "parts", name))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    train(dataclasses.replace(config, **{name: getattr(tiny, name) for name in changes}), tmp_path / "plain")
    same = content_hash(read(tmp_path / "whole").model) == content_hash(read(tmp_path / "plain").model)
    assert same == (changes.keys() <= {"save_every", "ema"})


def test_channels_stay_innermost_in_every_pass_and_are_not_so_in_the_file(tmp_path, monkeypatch):
    seen = set()

    def watched(*args, **options):
        model = build(*args, **options)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(lambda conv, inputs, name=name: watch(name, conv, inputs[0]))
        return model

    def watch(name, conv, images):
        formats = [x.is_contiguous(memory_format=torch.channels_last) for x in (images, conv.weight)]
        seen.add((name, conv.training, len(images), *formats))

    config = TrainConfig(data="digits32", method="agnostic-sam", batch_size=1000, epochs=1, ema=0.5)
    train(config, tmp_path / "usual")
    monkeypatch.setattr(run, "build", watched)
    monkeypatch.setattr(run, "_check_images", lambda *args: None)  # before the model is laid out
    train(dataclasses.replace(config, channels_last=True), tmp_path / "last")
    assert {(training, size) for _, training, size, *_ in seen} == {
        *((True, size) for size in (700, 300)),  # the parts, of the steps and of the probe
        *((False, size) for size in (1024, 54, 359, 360)),  # chunks of the three parts
    }
    assert {formats for *_, first, second in seen for formats in [(first, second)]} == {(True, True)}
    found, expected = read(tmp_path / "last").model, read(tmp_path / "usual").model
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert all(torch.allclose(found[name], expected[name], atol=1e-3) for name in found)
    splits = restore(read(tmp_path / "last"))[1]
    laid_out = {
        name: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
        for name, value in found.items()
    }
    assert content_hash(laid_out) == content_hash(found)
    loss = evaluate(restore(read(tmp_path / "last"))[0], splits.validation)[0]
    assert loss == pytest.approx(lines(tmp_path / "last")[0]["val_loss"], rel=1e-5)


def test_steps_take_the_learning_rate_of_their_epoch(tiny, tmp_path):
    config = dataclasses.replace(tiny, schedule="step", epochs=5, warmup_epochs=1)
    train(config, tmp_path)
    expected = [learning_rate(config, epoch) for epoch in range(5)]
    assert [line["learning_rate"] for line in lines(tmp_path)] == expected
    assert read(tmp_path).optimizer["optimizer"]["param_groups"][0]["lr"] == expected[-1]
    assert read(tmp_path).schedule == {"name": "step", "epochs": 5, "next_epoch": 5}


@pytest.fixture
def passes(monkeypatch):
    """The labels of each pass of a step, in their order."""
    seen, training_loss = [], loop.training_loss

    def watched(*settings):
        loss = training_loss(*settings)

        def called(model, batch):
            seen.append(batch[1].clone())
            return loss(model, batch)

        return called

    monkeypatch.setattr(loop, "training_loss", watched)
    return seen


@pytest.mark.parametrize(("ratio", "first", "second"), [(0.5, 256, 256), (0.9, 461, 51)])
@pytest.mark.parametrize("method", ["sam-subset", "agnostic-sam-simple", "agnostic-sam", "agnostic-sam-nonoverlap"])
def test_a_run_splits_its_batches_at_the_ratio_of_the_settings(tiny, tmp_path, passes, method, ratio, first, second):
    train(dataclasses.replace(tiny, method=method, split_ratio=ratio), tmp_path)
    visited = {"sam-subset": [first, first], "agnostic-sam-simple": [first, second, first]}
    expected = visited.get(method, [first, second, second, first])
    assert [len(labels) for labels in passes] == 4 * expected
    last = lines(tmp_path)[-1]
    assert last["num_gradients"] == pytest.approx(4 * sum(expected) / 512)
    assert (last["step"], math.isfinite(last["train_loss"]), math.isfinite(last["change"])) == (4, True, True)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.4])
def test_a_run_steps_on_the_wrong_labels_and_is_tested_on_right_ones(tiny, tmp_path, passes, noise):
    config = dataclasses.replace(tiny, label_noise=noise)
    train(config, tmp_path)
    splits, clean = load(config), load(dataclasses.replace(config, label_noise=0.0))
    rows = torch.cat([batch_order(config.seed, epoch, 1078, 512) for epoch in range(2)])
    assert torch.equal(torch.stack(passes), splits.train[1][rows])
    wrong = (splits.train[1] != clean.train[1]).nonzero().flatten()
    assert len(wrong) == round(noise * 1078)
    assert torch.equal(read(tmp_path).data["noise_indices"], wrong)
    test_loss, _ = evaluate(restore(read(tmp_path))[0], clean.test)
    assert read(tmp_path).metrics["test_loss"] == test_loss


def test_label_smoothing_is_of_the_training_loss_and_not_of_what_is_reported(tiny, tmp_path):
    config = dataclasses.replace(tiny, label_smoothing=0.3, epochs=1)
    train(config, tmp_path)
    splits, model = load(config), build("resnet8", in_channels=1, num_classes=10, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rows in batch_order(3, 0, 1078, 512):
        optimizer.zero_grad()
        log_probabilities = model(splits.train[0][rows]).log_softmax(1)
        of_label = log_probabilities.gather(1, splits.train[1][rows, None])[:, 0]
        (-0.7 * of_label - 0.3 * log_probabilities.mean(1)).mean().backward()
        optimizer.step()
    found = read(tmp_path).model
    assert all(torch.allclose(found[name], value, atol=1e-5) for name, value in model.state_dict().items())
    assert lines(tmp_path)[0]["train_loss"] == evaluate(restore(read(tmp_path))[0], splits.train)[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_label_smoothing_reaches_the_loss_in_lower_precision(tiny, tmp_path, precision):
    hashes = set()
    for smoothing in (0.0, 0.1):
        config = dataclasses.replace(tiny, precision=precision, label_smoothing=smoothing, epochs=1)
        train(config, tmp_path / str(smoothing))
        hashes.add(content_hash(read(tmp_path / str(smoothing)).model))
    assert len(hashes) == 2


def test_every_few_epochs_a_checkpoint_is_kept_that_force_removes_with_the_run(tiny, tmp_path):
    train(dataclasses.replace(tiny, epochs=5, save_every=2), tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("epoch-*"))
    assert kept == ["epoch-0002.pt", "epoch-0004.pt"]
    assert [read(tmp_path / name).epoch for name in kept] == [2, 4]
    assert restore(read(tmp_path / kept[0]))[0].training is False
    (tmp_path / "epoch-mine.pt").write_text("mine")
    train(dataclasses.replace(tiny, epochs=1), tmp_path, force=True)
    assert [path.name for path in tmp_path.glob("epoch-*")] == ["epoch-mine.pt"]


def test_a_run_killed_between_its_epoch_file_and_last_makes_that_epoch_once_more(tiny, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny, save_every=1)
    train(config, tmp_path / "whole")
    save = loop.checkpoints.save

    def killed(checkpoint, path):
        if checkpoint.epoch == 2 and path.name == "last.pt":
            raise StopError
        save(checkpoint, path)

    monkeypatch.setattr(loop.checkpoints, "save", killed)
    with pytest.raises(StopError):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    train(config, tmp_path / "parts", resume=True)
    for name in ("last.pt", "epoch-0001.pt", "epoch-0002.pt"):
        assert_same(everything(tmp_path / "whole", name), everything(tmp_path / "parts", name))


@pytest.mark.parametrize("method", ["sgd", "asam", "agnostic-sam"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_lower_precision_learns_and_resumes_bit_for_bit(tiny, tmp_path, method, precision):
    config = dataclasses.replace(tiny, method=method, precision=precision, rho=1.0, rho1=1.0, rho2=0.5)
    train(config, tmp_path / "whole")
    with pytest.raises(StopError):
        train(config, tmp_path / "parts", progress=stop_after(1))
    train(config, tmp_path / "parts", resume=True)
    assert_same(everything(tmp_path / "whole"), everything(tmp_path / "parts"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    assert lines(tmp_path / "whole")[-1]["train_loss"] < 2.5
    scaler = read(tmp_path / "whole").optimizer.get("scaler")
    assert (scaler is not None) == (precision == "fp16")
    train(dataclasses.replace(config, precision="fp32"), tmp_path / "single")
    assert content_hash(read(tmp_path / "whole").model) != content_hash(read(tmp_path / "single").model)


def test_a_perturbation_that_rounding_destroys_is_warned_of_with_its_measure(tiny, tmp_path):
    config = dataclasses.replace(tiny, method="sam", rho=0.001, precision="bf16", epochs=1)
    with pytest.warns(RoundedPerturbationWarning, match=r"bf16 rounds away much of .* radius 0.001: .* cosine of 0\."):
        train(config, tmp_path / "sam")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(dataclasses.replace(config, precision="fp32"), tmp_path / "single")
        train(dataclasses.replace(config, method="sgd"), tmp_path / "sgd")


def test_in_fp16_a_scale_that_is_too_large_is_found_by_skipping(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "GradScaler", lambda device: torch.amp.GradScaler(device, init_scale=2.0**40))
    config = dataclasses.replace(tiny, method="sam", rho=1.0, precision="fp16", epochs=10)
    outcome = train(config, tmp_path)
    optimizer = read(tmp_path).optimizer
    assert outcome.status == "finished"
    assert optimizer["num_skipped"] > 2
    assert optimizer["scaler"]["scale"] == 2.0 ** (40 - optimizer["num_skipped"])


def test_nonoverlap_trains_on_two_parts_that_never_mix(tiny, tmp_path, monkeypatch):
    seen = {"first": set(), "second": set()}
    steps = []
    step = AgnosticSAM.step

    def record(method, loss, batch, **options):
        images = [image.numpy().tobytes() for image in batch[0]]
        seen["first"] |= set(images[:70])
        seen["second"] |= set(images[70:])
        steps.append(len(images))
        return step(method, loss, batch, **options)

    monkeypatch.setattr(AgnosticSAM, "step", record)
    train(dataclasses.replace(tiny, method="agnostic-sam-nonoverlap", batch_size=100, epochs=3), tmp_path)
    assert steps == [100] * 30  # floor(1078 / 100) a epoch
    assert not seen["first"] & seen["second"]
    assert 700 < len(seen["first"]) <= 755  # 0.7 of 1078, but for what was always in the part that is dropped
    assert 300 < len(seen["second"]) <= 323


def test_resume_drops_metrics_that_the_checkpoint_has_not_seen_and_a_torn_line(tiny, tmp_path):
    train(tiny, tmp_path / "whole")
    with pytest.raises(StopError):
        train(tiny, tmp_path / "parts", progress=stop_after(1))
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**lines(tmp_path / "whole")[1], "train_loss": -1.0}) + "\n" + '{"epoch": 2, "st')
    train(tiny, tmp_path / "parts", resume=True)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_resume_before_the_first_epoch_and_without_a_run_starts(tiny, tmp_path):
    train(tiny, tmp_path / "whole", resume=True)
    train(tiny, tmp_path / "early")
    (tmp_path / "early" / "last.pt").unlink()
    train(tiny, tmp_path / "early", resume=True)
    assert_same(everything(tmp_path / "whole"), everything(tmp_path / "early"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "early")


def test_resume_of_a_finished_run_returns_at_once(tiny, tmp_path, monkeypatch):
    first = train(tiny, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(loop, "_train_epochs", None)
    again = train(tiny, tmp_path, resume=True)
    assert again.already_finished
    assert dataclasses.replace(again, already_finished=False) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_refuses_other_settings_and_names_them(tiny, tmp_path):
    train(tiny, tmp_path)
    other = dataclasses.replace(tiny, lr=0.2, epochs=9)
    message = r"other settings \(epochs 2 there, 9 now; lr 0\.1 there, 0\.2 now\): --force"
    with pytest.raises(SettingsDifferError, match=message):
        train(other, tmp_path, resume=True)
    (tmp_path / "last.pt").unlink()
    with pytest.raises(SettingsDifferError, match=message):
        train(other, tmp_path, resume=True)


def test_an_existing_run_is_refused_without_a_choice_and_replaced_by_force(tiny, tmp_path):
    train(tiny, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"holds a run already: --resume continues it, --force replaces it"):
        train(tiny, tmp_path)
    assert issubclass(OutputExistsError, FileExistsError)
    with pytest.raises(ValueError, match="resume and force exclude each other"):
        train(tiny, tmp_path, resume=True, force=True)
    train(dataclasses.replace(tiny, epochs=1), tmp_path, force=True)
    assert len(lines(tmp_path)) == 1
    assert read(tmp_path / "best.pt").config.epochs == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_from_a_damaged_checkpoint_says_so(tiny, tmp_path):
    train(tiny, tmp_path)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is truncated"):
        train(tiny, tmp_path, resume=True)


@pytest.mark.parametrize("method", METHODS)
def test_divergence_stops_before_the_step_and_keeps_the_last_good_checkpoint(tmp_path, method):
    config = TrainConfig(method=method, lr=1e6, epochs=20, batch_size=256, probe_every=1000)
    outcome = train(config, tmp_path)
    assert outcome.status == "diverged"
    assert 0 <= outcome.epoch < 20
    assert "not finite" in outcome.message
    assert f"last.pt holds epoch {outcome.epoch}. Try a smaller lr" in outcome.message
    assert outcome.test_accuracy is None
    kept = read(tmp_path)  # reading refuses weights that are not finite
    assert kept.epoch == outcome.epoch == len(lines(tmp_path))
    assert kept.metrics == outcome.metrics
    again = train(config, tmp_path, resume=True)
    assert (again.status, again.epoch, again.step) == ("diverged", outcome.epoch, outcome.step)


def test_divergence_in_a_later_epoch_keeps_the_epochs_before(tiny, tmp_path, monkeypatch):
    calls = []

    def loss(model, batch):
        calls.append(1)
        return cross_entropy(model, batch) * (math.nan if len(calls) == 4 else 1.0)

    config = dataclasses.replace(tiny, probe_every=1000)
    monkeypatch.setattr(loop, "training_loss", lambda *settings: loss)
    monkeypatch.setattr(loop, "_probe", lambda run, batch: 0.5)
    outcome = train(config, tmp_path / "run")
    assert (outcome.status, outcome.epoch, outcome.step) == ("diverged", 1, 3)
    assert "loss or gradient is not finite at step 3: no step was taken" in outcome.message
    assert read(tmp_path / "run").epoch == 1
    monkeypatch.undo()
    assert train(config, tmp_path / "run", resume=True).status == "finished"
    train(config, tmp_path / "whole")
    assert content_hash(read(tmp_path / "run").model) == content_hash(read(tmp_path / "whole").model)


def test_weights_that_overflow_in_the_last_step_of_an_epoch_are_not_saved(tiny, tmp_path, monkeypatch):
    def overflow(optimizer):
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(torch.optim.SGD, "step", overflow)
    monkeypatch.setattr(loop, "_probe", lambda run, batch: 0.5)
    outcome = train(dataclasses.replace(tiny, batch_size=1000), tmp_path)  # one step an epoch
    assert (outcome.status, outcome.epoch, lines(tmp_path)) == ("diverged", 0, [])
    assert r"not finite at step 1: stem.0.weight; last.pt holds epoch 0" in outcome.message
    assert read(tmp_path).epoch == 0


def test_probing_does_not_change_the_run(tiny, tmp_path):
    train(dataclasses.replace(tiny, probe_every=1), tmp_path / "often")
    train(dataclasses.replace(tiny, probe_every=3), tmp_path / "seldom")
    assert content_hash(read(tmp_path / "often").model) == content_hash(read(tmp_path / "seldom").model)
    assert [line["num_probes"] for line in lines(tmp_path / "seldom")] == [1, 1]  # steps 0 and 3
    assert [line["num_probes"] for line in lines(tmp_path / "often")] == [2, 2]


def test_the_real_step_lies_between_the_two_probes_of_the_same_batch(tiny, tmp_path, monkeypatch):
    seen = []

    def record(model, loss, batch, **options):
        weights = content_hash(dict(model.named_parameters()))
        seen.append((weights, content_hash({"x": batch[0], "y": batch[1]}), options))
        return 0.25 if len(seen) % 2 else 0.75

    monkeypatch.setattr(loop, "congruence", record)
    train(dataclasses.replace(tiny, epochs=1, probe_radius=0.3), tmp_path)
    assert len(seen) == 4
    for before, after in (seen[:2], seen[2:]):
        assert before[0] != after[0]
        assert before[1:] == after[1:]
        assert before[2]["radius"] == 0.3
    assert seen[1][0] == seen[2][0]
    assert seen[0][1] != seen[2][1]
    assert seen[0][2]["seed"] != seen[2][2]["seed"]
    line = lines(tmp_path)[0]
    assert (line["cosine_b"], line["cosine_a"], line["change"], line["change_standard_error"]) == (0.25, 0.75, 0.5, 0.0)


def test_gradients_are_counted_in_units_of_a_whole_batch(tiny, tmp_path):
    expected = {"sgd": 1, "sam": 2, "sam-subset": 180 / 128, "agnostic-sam-simple": 1 + 90 / 128}
    expected |= dict.fromkeys(("asam", "agnostic-sam", "agnostic-sam-nonoverlap"), 2)
    assert {name: gradients_per_step(TrainConfig(method=name)) for name in METHODS} == expected
    train(dataclasses.replace(tiny, method="sam"), tmp_path)
    assert [line["num_gradients"] for line in lines(tmp_path)] == [4, 8]


def test_probes_are_about_160_a_run_and_at_least_one_in_a_hundred_steps():
    assert [probe_interval(TrainConfig(), steps) for steps in (1, 159, 320, 16_000, 10**6)] == [1, 1, 2, 100, 100]
    assert probe_interval(TrainConfig(probe_every=7), 10**6) == 7


def test_settings_that_the_data_cannot_meet_are_refused_before_a_folder_is_made(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="batch_size is 2000, but there are only 1078 training examples"):
        train(TrainConfig(batch_size=2000), folder)
    with pytest.raises(ValueError, match=r"a batch of 3 cannot be split at 0\.7 into parts of 2 or more"):
        train(TrainConfig(batch_size=3), folder)
    assert not folder.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="concerns machines without a GPU")
def test_a_missing_device_is_refused_and_auto_finds_the_processor(tiny, tmp_path):
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no CUDA device here"):
        train(dataclasses.replace(tiny, device="cuda"), tmp_path / "run")
    train(dataclasses.replace(tiny, device="auto"), tmp_path / "auto")
    train(tiny, tmp_path / "cpu")
    assert content_hash(read(tmp_path / "auto").model) == content_hash(read(tmp_path / "cpu").model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu_is_close_to_the_one_on_the_processor(tiny, tmp_path):
    losses = []
    for device in ("cpu", "cuda"):
        train(dataclasses.replace(tiny, device=device, method="agnostic-sam", epochs=1), tmp_path / device)
        losses.append(lines(tmp_path / device)[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
