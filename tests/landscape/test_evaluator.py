import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import NETS, build, in_batches, objective_of, whole_loss
from torch import nn
from torch.optim.swa_utils import update_bn

from landscape import evaluator as evaluators
from landscape.batches import laid_out
from landscape.directions import ascent_plane, random_plane
from landscape.evaluator import Engine, choose, compiled_for, prepare, reference
from landscape.objective import NotRepeatableError, Objective
from landscape.operators import hessian
from landscape.sums import summarise
from landscape.surface import coarse_to_fine, loss_surface

POINTS = [[0.0, 0.0], [0.3, -0.2], [-0.5, 0.4]]


def losses(objective, engine, points=POINTS):
    plane = random_plane(objective)
    return summarise(prepare(objective, engine).sums(plane.centre, plane.axes, points).numpy())[0]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("engine", [Engine(micro_batch=1), Engine(micro_batch=3), Engine(layout="channels_last")])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_loss_does_not_depend_on_micro_batch_and_layout(name, engine, dtype, rtol):
    objective = objective_of(name, dtype=dtype)
    np.testing.assert_allclose(losses(objective, engine), losses(objective, Engine()), rtol=rtol)


def test_a_point_is_the_same_bits_alone_and_in_company():
    objective = objective_of("conv_net", dtype=torch.float32)
    together = losses(objective, Engine(micro_batch=4))
    alone = [losses(objective, Engine(micro_batch=4), [point])[0] for point in POINTS]
    backwards = losses(objective, Engine(micro_batch=4), POINTS[::-1])[::-1]
    assert together.tolist() == alone == backwards.tolist()


def test_data_that_is_read_anew_gives_the_bits_of_data_that_is_held():
    net, inputs, targets = build("conv_net", torch.float32)
    held = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))

    class Loader:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(in_batches(inputs, targets))

    loader = Loader()
    read = Objective(net, nn.CrossEntropyLoss(), loader)
    for engine in (Engine(), Engine(micro_batch=5, layout="channels_last"), Engine(batch_norm="recalibrated")):
        assert losses(read, engine).tolist() == losses(held, engine).tolist()
    before = loader.passes
    prepare(read, Engine()).sums(read.theta, random_plane(read).axes, POINTS)
    assert loader.passes == before + 1  # once for all points of a block


def test_recalibrated_batch_norm_is_that_of_update_bn_at_every_point():
    objective = objective_of("conv_net")
    plane = random_plane(objective)
    found = losses(objective, Engine(batch_norm="recalibrated"))
    for point, loss in zip(POINTS, found, strict=True):
        model = copy.deepcopy(objective.model)
        moved = plane.centre + point[0] * plane.axes[0] + point[1] * plane.axes[1]
        with torch.no_grad():
            for param, value in zip(model.parameters(), objective.named(moved).values(), strict=True):
                param.copy_(value)
        update_bn([batch[0] for batch in objective.batches], model)
        plain = Objective(model.eval(), nn.CrossEntropyLoss(), objective.batches).evaluate().loss
        assert loss == pytest.approx(plain, rel=1e-12)
    assert found[0] != losses(objective, Engine())[0]
    assert reference(objective, Engine(batch_norm="recalibrated")).loss == pytest.approx(found[0], rel=1e-12)


def summed(model, batch):
    output = model(batch["x"])
    return nn.functional.cross_entropy(output, batch["y"], reduction="sum"), len(batch["y"])


@pytest.mark.parametrize("mode", ["frozen", "recalibrated", "train"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_sums_over_mappings_are_measured_in_every_way_as_a_loss_over_pairs(mode, layout):
    pairs = objective_of("conv_net")
    batches = [{"x": x, "y": y, "note": "of the caller's own"} for x, y in pairs.batches]
    by_sums = Objective.from_sums(pairs.model, summed, batches)
    engine = Engine(batch_norm=mode, layout=layout)
    expected = losses(pairs, engine)
    np.testing.assert_allclose(losses(by_sums, engine), expected, rtol=1e-12)
    assert reference(by_sums, engine).loss == pytest.approx(expected[0], rel=1e-12)


def test_channels_last_lays_out_all_images_that_sums_read_and_loses_nothing():
    x = torch.rand(2, 3, 4, 4)
    batch = laid_out({"x": x, "more": [x, 1], "y": torch.zeros(2)}, "channels_last")
    for image in (batch["x"], batch["more"][0]):
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert not image.is_contiguous()
        assert image.equal(x)
    assert batch["more"][1] == 1
    assert len(laid_out((x, torch.zeros(2), torch.ones(2)), "channels_last")) == 3


def test_a_last_batch_of_one_example_is_no_part_of_the_calibration():
    objective = objective_of("batch_norm_net", sizes=(10, 10, 1))
    model = copy.deepcopy(objective.model)
    update_bn([batch[0] for batch in objective.batches[:2]], model)
    plain = Objective(model.eval(), nn.CrossEntropyLoss(), objective.batches).evaluate().loss
    engine = Engine(batch_norm="recalibrated")
    assert losses(objective, engine)[0] == pytest.approx(plain, rel=1e-12)
    assert reference(objective, engine).loss == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize(("mode", "sizes"), [("train", (10, 10, 1)), ("recalibrated", (1,) * 21)])
def test_batch_norm_over_one_example_is_refused_with_the_way_out(mode, sizes):
    objective, engine = objective_of("batch_norm_net", sizes=sizes), Engine(batch_norm=mode)
    way_out = "batch of one example has no statistics for BatchNorm: give batches of at least two"
    for measure in (losses, reference):
        with pytest.raises(ValueError, match=way_out):
            measure(objective, engine)
    with pytest.raises(ValueError, match=way_out):
        hessian(objective_of("batch_norm_net", sizes=(10, 10, 1)), batch_norm="train").matvec(objective.theta)


def test_batch_norm_in_train_mode_takes_each_batch_as_it_comes():
    objective = objective_of("batch_norm_net")
    model = copy.deepcopy(objective.model)
    model.eval()
    model[1].train()  # dropout stays off
    with torch.no_grad():
        total = sum(float(nn.functional.cross_entropy(model(x), y, reduction="sum")) for x, y in objective.batches)
    found = losses(objective, Engine(batch_norm="train"))[0]
    assert found == pytest.approx(total / 21, rel=1e-12)
    assert reference(objective, Engine(batch_norm="train")).loss == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("mode", ["frozen", "recalibrated", "train"])
def test_the_model_is_left_as_it_was(mode):
    objective = objective_of("batch_norm_net")
    objective.model.train()
    before = copy.deepcopy(objective.model.state_dict())
    momentum = objective.model[1].momentum
    surface = loss_surface(objective, random_plane(objective), steps=3, engine=Engine(batch_norm=mode))
    assert surface.checks["centre_ok"]
    assert surface.settings["batch_norm"] == mode
    after = objective.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert objective.model[1].momentum == momentum
    assert all(module.training for module in objective.model.modules())


def test_a_lower_precision_is_of_the_forward_pass_alone_and_its_error_is_kept():
    objective = objective_of("conv_net", dtype=torch.float32)
    surface = loss_surface(objective, random_plane(objective), steps=3, engine=Engine(precision="bf16"))
    assert 0 < surface.checks["centre_error"] < 0.05
    assert surface.checks["centre_ok"]
    full = loss_surface(objective, random_plane(objective), steps=3, engine=Engine())
    assert surface.checks["reference_loss"] == full.checks["reference_loss"]
    assert objective.theta.dtype == torch.float32


@pytest.mark.parametrize(
    ("engine", "dtype", "message"),
    [
        (Engine(precision="tf32"), torch.float32, "precision tf32 is of GPUs"),
        (Engine(precision="bf16"), torch.float64, "precision bf16 is of a float32 model"),
        (Engine(batch_norm="recalibrated"), torch.float64, "no BatchNorm with running statistics"),
    ],
)
def test_an_engine_that_does_not_suit_is_refused(engine, dtype, message):
    with pytest.raises(ValueError, match=message):
        prepare(objective_of("tied", dtype=dtype), engine)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layout": "channel_last"}, r"layout must be one of \('contiguous', 'channels_last'\), got 'channel_last'"),
        ({"micro_batch": -1}, "micro_batch must be at least 0"),
        ({"micro_batch": 4, "batch_norm": "train"}, "measures the batches as they are"),
    ],
)
def test_an_engine_names_what_it_refuses(choice, message):
    with pytest.raises(ValueError, match=message):
        Engine(**choice)


def test_batches_are_cut_only_where_examples_stand_alone():
    net, inputs, targets = build("tied")
    batches = in_batches(inputs, targets)
    assert Objective(net, nn.CrossEntropyLoss(), batches).may_cut
    assert not Objective(net, lambda o, t: nn.functional.cross_entropy(o, t), batches, reduction="mean").may_cut
    sums = Objective.from_sums(net, lambda model, batch: (model(batch[0]).sum(), len(batch[1])), batches)
    assert not sums.may_cut
    of_batch = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).double()
    assert not Objective(of_batch, nn.CrossEntropyLoss(), batches).may_cut
    with pytest.raises(ValueError, match="these batches cannot be cut"):
        prepare(sums, Engine(micro_batch=4))
    engine, _ = choose(sums, Engine(), num_points=9)
    assert engine == Engine()


def one_long_batch(num_examples=600):
    net, _, _ = build("batch_norm_net")
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_examples, 5, generator=stream, dtype=torch.float64)
    return Objective(net, nn.CrossEntropyLoss(), [(inputs, torch.randint(0, 3, (num_examples,), generator=stream))])


@pytest.mark.parametrize("mode", ["frozen", "recalibrated"])
def test_no_pass_takes_more_than_256_examples_of_a_batch_at_once(mode):
    objective, seen = one_long_batch(), []
    _ = objective.batch_terms  # made with a pass of its own
    objective.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    loss_surface(objective, ascent_plane(objective), steps=3, engine=Engine(micro_batch=64, batch_norm=mode), paired=8)
    objective.evaluate()
    assert max(seen) == 256
    assert sum(seen) % 600 == 0  # and each pass has them all


def test_cutting_a_batch_changes_no_sum():
    objective = one_long_batch()
    theta = objective.theta.clone().requires_grad_()
    objective.model.eval()
    expected = whole_loss(objective)(theta)
    assert objective.evaluate().loss == pytest.approx(expected.item(), rel=1e-13)
    assert objective.reference().loss == pytest.approx(expected.item(), rel=1e-13)
    assert objective.example_denominators().tolist() == [1.0] * 600
    ((gradient, denominator),) = objective.batch_gradients()  # one for each batch, however it is cut
    assert denominator == 600
    (exact,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(gradient / 600, exact, rtol=1e-11, atol=1e-14)


def test_statistics_are_recalibrated_on_pieces_of_256_and_those_of_train_on_whole_batches():
    objective = one_long_batch()
    model = copy.deepcopy(objective.model)
    inputs, targets = objective.batches[0]
    update_bn(inputs.split(256), model)
    plain = Objective(model.eval(), nn.CrossEntropyLoss(), objective.batches).evaluate().loss
    assert reference(objective, Engine(batch_norm="recalibrated")).loss == pytest.approx(plain, rel=1e-12)
    assert losses(objective, Engine(batch_norm="recalibrated"))[0] == pytest.approx(plain, rel=1e-12)
    model = copy.deepcopy(objective.model).eval()
    model[1].train()
    expected = nn.functional.cross_entropy(model(inputs), targets).item()
    assert reference(objective, Engine(batch_norm="train")).loss == pytest.approx(expected, rel=1e-12)


def test_the_choice_is_made_by_time_and_leaves_the_usual_one_for_a_gain(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    objective = Objective(
        net, nn.CrossEntropyLoss(), [(torch.randn(512, 1, 4, 4), torch.zeros(512, dtype=torch.int64))]
    )
    seconds = {(64, "channels_last"): 1.0, (64, "contiguous"): 0.95, (128, "channels_last"): 0.5}

    def timed(objective, engine, batch):
        return seconds.get((engine.micro_batch, engine.layout), 9.0), torch.ones(8)

    monkeypatch.setattr(evaluators, "_timed", timed)
    monkeypatch.setattr(evaluators, "_COMPILE_SECONDS", 1e9)
    engine, record = choose(objective, Engine(precision="bf16"), num_points=9)
    assert engine == Engine(micro_batch=128, layout="channels_last", precision="bf16")
    assert record["seconds_per_example"]["64 contiguous"] == 0.95
    examples = sum(2 * int(name.split()[0]) for name in record["seconds_per_example"])
    assert examples <= 512  # one pass over the data


def test_a_device_out_of_memory_gets_smaller_micro_batches(monkeypatch):
    objective = objective_of("conv_net")
    plane = random_plane(objective)
    expected = loss_surface(objective, plane, steps=3, engine=Engine(micro_batch=8))
    real = evaluators.Evaluator.sums

    def scarce(self, *arguments):
        if self.engine.micro_batch > 2:
            raise torch.OutOfMemoryError("no memory")
        return real(self, *arguments)

    monkeypatch.setattr(evaluators.Evaluator, "sums", scarce)
    surface = loss_surface(objective, plane, steps=3, engine=Engine(micro_batch=8))
    np.testing.assert_allclose(surface.loss, expected.loss, rtol=1e-12)
    assert surface.checks["micro_batches"] == [8, 4, 2]
    monkeypatch.setattr(evaluators.Evaluator, "sums", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(MemoryError, match="the batches cannot be made smaller"):
        loss_surface(objective, plane, steps=3, engine=Engine(micro_batch=8))


def test_a_compiled_pass_agrees_with_the_plain_one(monkeypatch):
    objective = objective_of("tied", dtype=torch.float32, sizes=(21,))
    plain = Engine(micro_batch=8)
    monkeypatch.setattr(evaluators, "_COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(evaluators, "_USUAL", {"cpu": 8})
    monkeypatch.setattr(evaluators, "_TRIED", {"cpu": (8,)})
    engine, record = choose(objective, Engine(), num_points=9)
    assert set(record["compile"]) >= {"used"}
    if "reason" in record["compile"]:
        pytest.skip(f"no compiler here: {record['compile']['reason']}")
    assert record["compile"]["difference"] <= evaluators.COMPILED_TOLERANCE["fp32"]
    compiled = replace(engine, compiled=True)
    np.testing.assert_allclose(losses(objective, compiled), losses(objective, plain), rtol=1e-6)


def test_compiling_is_chosen_by_the_count_of_operations(monkeypatch):
    objective = objective_of("tied", dtype=torch.float32, sizes=(21,))
    tried = []
    monkeypatch.setattr(evaluators, "_try_compiling", lambda _, engine: tried.append(engine) or (engine, {}))
    plain = Engine(micro_batch=8)
    flops = 2 * (5 * 5 + 5 * 5 + 5 * 3)  # of an example: three linear layers
    monkeypatch.setattr(evaluators, "_COMPILE_FLOPS", {"cpu": 9 * 21 * flops})
    assert compiled_for(objective, plain, num_points=8) == plain
    assert tried == []
    compiled_for(objective, plain, num_points=9)
    assert tried == [plain]
    compiled_for(objective, Engine(), num_points=9)  # batches as they come, whose last one is short
    assert tried == [plain]


def test_a_model_that_cannot_be_compiled_is_measured_as_it_is(monkeypatch):
    objective = objective_of("tied", dtype=torch.float32, sizes=(21,))
    monkeypatch.setattr(evaluators, "_COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(evaluators, "_USUAL", {"cpu": 8})
    monkeypatch.setattr(evaluators, "_TRIED", {"cpu": (8,)})

    def broken(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    engine, record = choose(objective, Engine(), num_points=9)
    assert not engine.compiled
    assert record["compile"] == {"used": False, "reason": "RuntimeError: no compiler"}


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 21, 51])
@pytest.mark.parametrize("num_axes", [1, 2])
def test_every_point_is_visited_once_coarse_to_fine_from_the_centre(steps, num_axes):
    order = coarse_to_fine(steps, num_axes)
    assert sorted(order) == list(range(steps**num_axes))
    assert order[0] == steps**num_axes // 2
    if steps == 51:
        first = np.unravel_index(order[: 5**num_axes], (steps,) * num_axes)[0]
        assert {0, 25, 50} <= set(first.tolist())


def test_noise_in_the_model_is_found_before_it_is_called_a_wrong_centre():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x) + 0.1 * torch.randn(len(x), 3)

    _, inputs, targets = build("tied", torch.float32)
    objective = Objective(Noisy(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with pytest.raises(NotRepeatableError, match="draws at random"):
        loss_surface(objective, random_plane(objective), steps=3)
