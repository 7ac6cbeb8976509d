"""The command line: parse, join train and landscape, save, report errors. No mathematics.

stdout carries data (a table, or one JSON document with --json), stderr everything else. Exit codes: 0 done; 1 a bug of
ours; 2 the command line; 3 content of a file, or settings that differ; 4 a number failed its check (what exists is
written and flagged); 5 resources; 6 refused for safety; 130, 143 signals. Nothing here imports torch until a command
needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import signal
import sys
import time
import traceback
import warnings
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from landscape.results import PAGE_MARK, Json, ResultsFile, load_file, problem_of, save
from landscape.tables import summary_table, tables

if TYPE_CHECKING:
    from torch import Tensor, nn

    from landscape.directions import Normalization
    from landscape.objective import Objective
    from landscape.results import Record, Result
    from train.checkpoint import Checkpoint
    from train.config import TrainConfig
    from train.data import Images, Splits
    from train.data import Record as DataRecord
    from train.loop import Outcome, Progress
    from train.plan import Plan
    from train.recipes import Preset

BATCH_SIZE = 256  # of a measurement: stays in cache; decides the last bits of a result
RESIDENT_NUMBERS = 2**28  # inputs up to this (1 GiB) are made once, larger ones on each pass
NUMBER_FAILED = 4

Command = Callable[..., object]
Count = Callable[[str, str, int, int | None], None]  # what, unit, done, total where it is known
_INSIDE_DEMO = "inside demo"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class _CommandError(Exception):
    """What a person did, or ran into: one line, and an exit code."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


class _Terminated(BaseException):
    pass


@dataclass(frozen=True)
class _Console:
    """What a command may print: results on stdout as tables or JSON, the rest on stderr."""

    as_json: bool
    quiet: bool

    def table(self, text: str) -> None:
        if not self.as_json:
            click.echo(text)

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def next(self, command: str) -> None:
        if click.get_current_context().find_root().obj != _INSIDE_DEMO:
            self.say(f"next: {command}")


@dataclass(frozen=True)
class _Output:
    """Where a command writes, and what it does with a file that is there."""

    path: Path | None
    force: bool
    resume: bool


@dataclass(frozen=True)
class _Opened:
    """A checkpoint file with the model and data it names."""

    path: Path
    label: str
    hash: str
    checkpoint: Checkpoint
    splits: Splits
    model: nn.Module
    device: str

    def record(self) -> Record:
        return {
            "label": self.label,
            "hash": self.hash,
            "method": self.checkpoint.config.method,
            "epoch": self.checkpoint.epoch,
            "config": cast("Record", self.checkpoint.config.to_dict()),
        }


@dataclass(frozen=True)
class _Batches:
    """A part of the data in batches, made anew on each pass."""

    inputs: Images
    targets: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.targets), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            yield self.inputs[rows], self.targets[rows]


# Options that several commands share


def _output_options(default: str) -> Callable[[Command], Command]:
    options = _together(
        click.option("--out", type=click.Path(path_type=Path), help=f"Where to write.  [default: {default}]"),
        click.option("--force", is_flag=True, help="Replace what is there."),
        click.option("--resume", is_flag=True, help="Go on with what is there; done already is done."),
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(*args: object, out: Path | None, force: bool, resume: bool, **others: object) -> object:
            return command(*args, output=_Output(out, force, resume), **others)

        return options(_console_options(packed))

    return decorate


def _console_options(command: Command) -> Command:
    @functools.wraps(command)
    def packed(*args: object, as_json: bool, quiet: bool, debug: bool, **others: object) -> object:
        del debug  # main reads it from the command line
        return command(*args, console=_Console(as_json, quiet or as_json), **others)

    return _together(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."),
        click.option("--quiet", is_flag=True, help="Nothing but results and errors."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    )(packed)


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


_checkpoints_argument = click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
_split_option = click.option(
    "--split",
    type=click.Choice(list(_SPLITS)),
    default="train",
    show_default=True,
    help="Data to measure on.",
)
_device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
_seed_option = click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)

_TRAIN_HELP = {
    "method": "sgd, sam, sam-subset (SAM on the larger part of each batch), asam, agnostic-sam, and its two variants.",
    "data": "A data set (landscape data list), imagefolder:PATH or npz:PATH.",
    "data_root": "Folder with the data sets.  [default: $LANDSCAPE_DATA, else ~/.cache/landscape/data]",
    "val_fraction": "Of the training part, held out where the data has no validation part; 0: none (then no best.pt).",
    "augment": "none, or paper: training images are mirrored, cropped and so on, as in the paper.",
    "model": "The network: a name of ours, torchvision:NAME or timm:NAME; an unknown one lists them.",
    "weights": "File of pretrained weights to start from; the head stays new where it has other classes.",
    "epochs": "Passes over the training data.",
    "batch_size": "Examples per step.",
    "lr": "Learning rate at its highest.",
    "schedule": "Of the learning rate: cosine to zero, step (x 0.2 at 30, 60, 80 % of the epochs), or constant.",
    "warmup_epochs": "Epochs in which the learning rate rises in equal steps, before the schedule.",
    "label_smoothing": "Of the training loss; every loss that is reported is plain cross-entropy.",
    "momentum": "Of SGD underneath every method.",
    "nesterov": "Take that momentum as Nesterov does.",
    "weight_decay": "Of SGD underneath every method.",
    "rho": "Radius of sam, sam-subset and asam (whose paper takes 0.5).",
    "rho1": "Ascent radius of agnostic-sam.",
    "rho2": "Validation radius of agnostic-sam.",
    "split_ratio": "Share of a batch that agnostic-sam trains on.",
    "m": "Perturb each chunk of so many examples of a batch by itself (m-sharpness); 0: the whole batch. "
    "BatchNorm's running statistics move with each chunk of a process.",
    "sam_sync": "Several processes (torchrun) perturb together, global, or each by itself, local.",
    "same_rng": "The same dropout masks in all passes of a step.",
    "ema": "Decay per step of an average of the weights, e.g. 0.999, kept as ema.pt; 0: none.",
    "label_noise": "Fraction of training labels changed to another class.",
    "seed": "Decides initial weights and order of the data.",
    "data_seed": "Decides the split and the label noise.",
    "device": "auto, cpu or cuda.",
    "eta": "What ASAM adds to the size of a weight.",
    "precision": "Precision of the passes, by autocast: fp32, bf16 or fp16.",
    "channels_last": "Lay images and weights out with the channels innermost.",
    "compile": "Compile the passes of the steps, once they are found to agree with the plain ones.",
    "probe_every": "Steps from one congruence probe to the next; 0 chooses.",
    "probe_radius": "Radius of the congruence probe, the same for every method.",
    "save_every": "Keep epoch-0010.pt and so on every so many epochs; 0 keeps none.",
}


def _train_options(command: Command) -> Command:
    _refuse_another_train_module()
    from train.config import TrainConfig

    def spelled(name: str, kind: str) -> str:
        option = name.replace("_", "-")
        return f"--{option}/--no-{option}" if kind == "bool" else f"--{option}"

    options = [
        click.option(
            spelled(item.name, str(item.type)),
            type={"str": str, "int": int, "float": float, "bool": bool}[str(item.type)],
            default=item.default,
            show_default=item.default != "",
            help=_TRAIN_HELP[item.name],
        )
        for item in dataclasses.fields(TrainConfig)
    ]
    return _together(*options)(command)


def _refuse_another_train_module() -> None:
    """Somebody's own train.py earlier on the path would be imported in our package's place."""
    found = importlib.util.find_spec("train")
    if found is None or str(Path(__file__).resolve().with_name("train")) not in (
        found.submodule_search_locations or []
    ):
        where = found.origin if found else "nothing"
        click.echo(f"landscape: {where} stands before landscape's own package `train`: rename it or move it", err=True)
        sys.exit(2)


class _App(click.Group):
    """The group, which remembers its words, so that a result can say which command made it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="agnostic-landscape", prog_name="landscape")
@click.pass_context
def app(context: click.Context) -> None:
    """Train SGD, SAM and Agnostic-SAM checkpoints, and measure the loss around any of them.

    \b
    landscape demo                                    all of it in three minutes, on real data
    landscape train --method sam --out runs/sam       a checkpoint
    landscape surface runs/sam/last.pt                its loss on a filter-normalized plane
    landscape hessian runs/sam/last.pt                its largest curvatures, each with its residual
    landscape report runs                             one offline page of all that was measured
    """
    if _processes()[1] > 1 and context.invoked_subcommand != "train":
        raise click.UsageError("of all commands only train shares its work among the processes of torchrun")


@app.command()
@_train_options
@click.option("--recipe", help="An experiment of the paper (--list-recipes): its settings, but for those given here.")
@click.option("--preset", type=click.Choice(["paper", "clean"]), help="Of a recipe; clean: without label smoothing.")
@click.option("--list-recipes", is_flag=True, help="Print every recipe, what it reproduces and what the paper has.")
@click.option(
    "--dry-run", is_flag=True, help="Print settings, parameters, steps and an estimate of their time; write nothing."
)
@click.option("--tensorboard", is_flag=True, help="Write the metrics for TensorBoard as well, into the run's folder.")
@click.option("--download", is_flag=True, help="Fetch the data set if it is not there.")
@_output_options("runs/METHOD-seedSEED; of a recipe, runs/RECIPE/METHOD-seedSEED")
def train(
    output: _Output,
    console: _Console,
    recipe: str | None,
    preset: Preset | None,
    list_recipes: bool,
    dry_run: bool,
    tensorboard: bool,
    download: bool,
    **options: str | float,
) -> Record:
    """Train one run: a folder with config.toml, metrics.jsonl, last.pt and best.pt.

    \b
    landscape train --method sam --rho 0.1 --out runs/sam
    landscape train --method agnostic-sam --label-noise 0.4 --epochs 40 --out runs/agnostic
    landscape train --recipe cifar100-wrn28x10 --method agnostic-sam --seed 0 --dry-run
    """
    if list_recipes:
        return _list_recipes(console)
    with _as_usage_error():
        config = _config(recipe, preset, options)
    out = output.path or Path("runs") / (recipe or "") / f"{config.method}-seed{config.seed}"
    if dry_run:
        return _dry_run(config, out, console)
    started = time.perf_counter()
    console.say(_plan_text(config))
    with _events(out, wanted=tensorboard and _processes()[0] == 0) as update:
        outcome = _train(config, out, output, console, update, download=download)
    console.table(_outcome_text(outcome))
    if outcome.status == "finished" and outcome.message:
        console.say(outcome.message)
    if outcome.status == "diverged":
        raise _CommandError(NUMBER_FAILED, f"training diverged: {outcome.message}")
    console.next(f"landscape surface {_shown(out / 'last.pt')}")
    return _outcome_record(outcome, time.perf_counter() - started)


@app.command()
@_checkpoints_argument
@click.option(
    "--steps", type=int, default=51, show_default=True, help="Points along each axis; odd, so that the centre is one."
)
@click.option("--extent", type=float, default=1.0, show_default=True, help="Reach, in lengths of an axis.")
@click.option(
    "--normalization",
    type=click.Choice(["filter", "layer", "none"]),
    default="filter",
    show_default=True,
    help="What gets the norm of the model's own weights.",
)
@_seed_option
@_split_option
@_device_option
@_output_options("surface.npz beside the checkpoints")
def surface(
    checkpoints: tuple[Path, ...],
    steps: int,
    extent: float,
    normalization: Normalization,
    seed: int,
    split: str,
    device: str,
    output: _Output,
    console: _Console,
) -> Record:
    """Measure the loss on a plane through each checkpoint; all share one pair of raw directions.

    \b
    landscape surface runs/sam/last.pt
    landscape surface runs/*/last.pt --split test --steps 21 --out runs/surface-test.npz
    """
    _check_grid(steps, extent)
    options: Record = {"steps": steps, "extent": extent, "normalization": normalization, "seed": seed}

    def measure(one: _Opened, count: Count) -> Result:
        from landscape.directions import random_plane
        from landscape.surface import loss_surface

        objective = _objective(one, split, one.device)
        report = functools.partial(count, f"surface {one.label}", "points")
        with _as_usage_error():
            plane = random_plane(objective, seed=seed, normalization=normalization)
            return loss_surface(objective, plane, steps=steps, extent=extent, progress=report)

    return _measure_all("surface", checkpoints, split, device, options, measure, output, console)


@app.command()
@_checkpoints_argument
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many eigenvalues.")
@click.option("--tolerance", type=float, default=1e-3, show_default=True, help="Residual over the largest |lambda|.")
@click.option(
    "--max-matvecs",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Products at most, for each checkpoint.",
)
@_seed_option
@_split_option
@_device_option
@_output_options("hessian.npz beside the checkpoints")
def hessian(
    checkpoints: tuple[Path, ...],
    top: int,
    tolerance: float,
    max_matvecs: int,
    seed: int,
    split: str,
    device: str,
    output: _Output,
    console: _Console,
) -> Record:
    """Measure the largest eigenvalues of the Hessian of the mean loss, each with its true residual.

    \b
    landscape hessian runs/sam/last.pt
    landscape hessian runs/sgd/last.pt runs/sam/last.pt --top 3 --tolerance 1e-4
    """
    options: Record = {"top": top, "tolerance": tolerance, "max_matvecs": max_matvecs, "seed": seed}

    def measure(one: _Opened, count: Count) -> Result:
        from landscape import operators
        from landscape.lanczos import top_eigenpairs

        operator = operators.hessian(_objective(one, split, one.device))
        with _as_usage_error():
            pairs = top_eigenpairs(
                operator,
                top,
                tolerance=tolerance,
                seed=seed,
                max_matvecs=max_matvecs,
                progress=lambda done: count(f"hessian {one.label}", "products", done, None),
            )
        return dataclasses.replace(pairs, vectors=None)

    return _measure_all("hessian", checkpoints, split, device, options, measure, output, console)


@app.command()
@click.argument("paths", metavar="CKPT|RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--radius", type=float, default=0.05, show_default=True, help="Of the validation ascent, where it is measured now."
)
@_device_option
@_output_options("alignment.npz beside the runs")
def alignment(paths: tuple[Path, ...], radius: float, device: str, output: _Output, console: _Console) -> Record:
    """Show how well training and validation gradients agree: the trace of a RUN folder, or measured at a CKPT.

    \b
    landscape alignment runs/sgd runs/sam
    landscape alignment runs/sam/last.pt
    """
    if len({path.is_dir() for path in paths}) > 1:
        raise click.UsageError("give either run folders (their traces) or checkpoint files (measured now), not both")
    traced = paths[0].is_dir()

    def measure(one: _Opened, _count: Count) -> Result:
        from landscape.alignment import gradient_congruence

        if traced:
            return _trace(one)
        with _as_usage_error():
            train, validation = _objective(one, "train", one.device), _objective(one, "val", one.device)
            return gradient_congruence(train, validation, radius=radius)

    if traced:
        options: Record = {"metrics": [_content_hash(path / "metrics.jsonl") for path in paths]}
    else:
        options = {"radius": radius}
    return _measure_all("alignment", paths, "train", device, options, measure, output, console)


@app.command()
@click.argument("paths", metavar="RUN|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write.  [default: report.html beside them]")
@click.option("--title", default="Loss landscape", show_default=True, help="Of the page.")
@click.option("--force", is_flag=True, help="Replace a file that is not a page of ours.")
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@_console_options
def report(
    paths: tuple[Path, ...], out: Path | None, title: str, force: bool, open_it: bool, console: _Console
) -> Record:
    """Write one offline HTML page of all results in the files and folders.

    \b
    landscape report runs
    landscape report runs/surface.npz runs/hessian.npz --out page.html --open
    """
    from landscape.report import write_report

    files = _results_files(paths)
    out = out or _common_folder(paths) / "report.html"
    _refuse_to_replace(out, force)
    loaded = [load_file(file) for file in files]
    results = [result for file in loaded for result in file.results]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_report(results, out, title=title, commands=_commands_of(loaded))
    console.say(f"wrote {_shown(out)}")
    if open_it:
        webbrowser.open(out.resolve().as_uri())
    return {"report": str(out), "num_results": len(results), "files": [str(file) for file in files]}


_data_root_option = click.option("--data-root", default="", help=_TRAIN_HELP["data_root"])


@app.group()
def data() -> None:
    """Show which data sets are here, where they are expected, and whether they are whole.

    \b
    landscape data list
    landscape data path cifar10
    landscape data check cifar10
    """


@data.command("list")
@_data_root_option
@_console_options
def data_list(data_root: str, console: _Console) -> Record:
    """List every data set: present or absent, its sizes, its licence. Nothing is opened."""
    from train.data import data_root as root_of
    from train.data import records

    found = records(root_of(data_root))
    console.table(_data_table(found))
    console.say(f"data root: {root_of(data_root)}   also: imagefolder:PATH, npz:PATH")
    return {"data_root": str(root_of(data_root)), "data": [_data_record(one) for one in found]}


@data.command("path")
@click.argument("name")
@_data_root_option
@_console_options
def data_path(name: str, data_root: str, console: _Console) -> Record:
    """Print the folder where a data set is expected, whether it is there or not."""
    from train.data import data_root as root_of
    from train.data import record

    with _as_usage_error():
        found = record(name, root_of(data_root))
    console.table(found.folder or "(embedded)")
    return _data_record(found)


@data.command("check")
@click.argument("name")
@_data_root_option
@_console_options
def data_check(name: str, data_root: str, console: _Console) -> Record:
    """Read all of a data set: published checksums, labels, and every image. Exit code 3 if it is absent or damaged."""
    from train.data import checked
    from train.data import data_root as root_of

    with _as_usage_error():
        found = checked(name, root_of(data_root))
    if found.state != "present":
        raise _CommandError(3, found.detail)
    console.table(f"{found.name} is whole; checksums: {found.checksums}")
    return _data_record(found)


def _data_table(found: Sequence[DataRecord]) -> str:
    rows: list[tuple[str, ...]] = [("data", "state", "train", "validation", "test", "classes", "licence")]
    for one in found:
        sizes = [f"{size:,}" for size in one.sizes] if one.sizes else ["?"] * 3
        rows.append((one.name, one.state, *sizes, str(one.num_classes), one.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 1, 6)
    return "\n".join(
        "  ".join(
            f"{cell:<{w}}" if n in left else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _data_record(one: DataRecord) -> Record:
    return {**vars(one), "sizes": list(one.sizes) if one.sizes else None}


def _download(config: TrainConfig) -> None:
    from train.data import data_root, download

    with contextlib.redirect_stdout(sys.stderr):  # torchvision prints
        download(config.data, data_root(config.data_root))


DEMO_NOISE = 0.4
# Chosen once by benchmarks/radii.py: the best mean accuracy on clean validation labels over three seeds.
DEMO_METHODS = {
    "sgd": ["--method", "sgd"],
    "sam": ["--method", "sam", "--rho", "0.8"],
    "agnostic-sam": ["--method", "agnostic-sam", "--rho1", "0.6", "--rho2", "0.3"],
}


@app.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=40, show_default=True)
@click.option("--steps", type=int, default=21, show_default=True, help="Points along each axis of the surfaces.")
@click.option("--force", is_flag=True, help="Make it all anew.")
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@_console_options
def demo(out: Path, epochs: int, steps: int, force: bool, open_it: bool, console: _Console) -> Record:
    """Train SGD, SAM and Agnostic-SAM on digits with 40 % wrong labels, measure, and write the page.

    Each command is printed, so that it can be run alone. A second demo reuses what is there.

    \b
    landscape demo
    landscape demo --out /tmp/demo --open
    """
    _check_grid(steps, 1.0)
    flags = [
        "--force" if force else "--resume",
        *(["--json"] if console.as_json else []),
        *(["--quiet"] if console.quiet else []),
    ]
    console.table(_DEMO_STORY)
    found: Record = {}
    for command in _demo_commands(out, epochs, steps):
        console.table(f"\n$ landscape {shlex.join(command)}")
        found[shlex.join(command)] = _inside_demo([*command, *flags])
    page, picture = out / "report.html", out / "demo.png"
    title = f"Digits with {100 * DEMO_NOISE:g} % wrong labels"
    _inside_demo(["report", str(out), "--out", str(page), "--title", title, "--quiet"])
    files = [out / f"{name}.npz" for name in ("surface-train", "surface-test", "hessian")]
    results = [result for file in files for result in load_file(file).results]
    _draw_picture(results, picture)
    summary = summary_table(results)
    console.table(f"\n{summary.text()}")
    console.table(f"\nthe page: {_shown(page)}   the picture: {_shown(picture)}")
    if open_it:
        webbrowser.open(page.resolve().as_uri())
    return {"report": str(page), "picture": str(picture), "table": list(summary.records), "commands": found}


def _inside_demo(command: list[str]) -> Json:
    try:
        return cast(Json, app.main(command, prog_name="landscape", standalone_mode=False, obj=_INSIDE_DEMO))
    except (_CommandError, ValueError) as error:
        if _explained(error)[0] != 3:
            raise
        hint = "landscape demo --force makes it all anew, --out another folder beside it"
        raise _CommandError(3, str(error).removesuffix(": --force replaces it"), hint) from error


def _demo_commands(out: Path, epochs: int, steps: int) -> list[list[str]]:
    runs = {name: str(out / name) for name in DEMO_METHODS}
    noise = ["--label-noise", str(DEMO_NOISE), "--epochs", str(epochs)]
    commands = [["train", *options, *noise, "--out", runs[name]] for name, options in DEMO_METHODS.items()]
    checkpoints = [f"{run}/last.pt" for run in runs.values()]
    for split in ("train", "test"):
        to = str(out / f"surface-{split}.npz")
        commands.append(["surface", *checkpoints, "--steps", str(steps), "--split", split, "--out", to])
    commands.append(["hessian", *checkpoints, "--out", str(out / "hessian.npz")])
    commands.append(["alignment", *runs.values(), "--out", str(out / "alignment.npz")])
    return commands


_DEMO_STORY = """\
Digits (1,797 images of 8x8), 40 % of the training labels wrong, one network, three methods, one seed.
Each method has the radius that did best after 40 epochs on clean validation labels (benchmarks/radii.md, 3 seeds).
In that sweep SAM 94.7 ± 0.8 %, SAM on 70 % of each batch 94.7 ± 0.5 % and Agnostic-SAM 95.8 ± 0.7 % are within noise of
each other; SGD has 73.9 ± 0.9 %. The demo shows what a pit of memorised labels looks like, not which SAM is better."""


def _draw_picture(results: Sequence[Result], path: Path) -> None:
    from landscape.figures import overview_picture
    from landscape.results import Surface, write_atomically

    figure = overview_picture([result for result in results if isinstance(result, Surface)])
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))


# Measuring: what surface, hessian and alignment have in common


def _measure_all(
    command: str,
    paths: Sequence[Path],
    split: str,
    device: str,
    options: Record,
    measure: Callable[[_Opened, Count], Result],
    output: _Output,
    console: _Console,
) -> Record:
    """Measure every checkpoint, save all results in one file, print their table; or read the file that is there."""
    device = _device(device)
    paths = list(dict.fromkeys(paths))
    opened = [_open(path, label, device) for path, label in zip(paths, _labels(paths), strict=True)]
    out = output.path or _common_folder(paths) / f"{command}.npz"
    plan: Record = {
        "command": command,
        "checkpoints": [one.hash for one in opened],
        "labels": [one.label for one in opened],
        "data": [str(one.checkpoint.data["hash"]) for one in opened],
        "split": split,
        "device": device,
        "batch_size": BATCH_SIZE,
        "versions": _versions(),
        **options,
    }
    results = _already_measured(out, plan, output)
    if results is None:
        _writable(out)
        started = time.perf_counter()
        with _counting(console) as count:
            results = [_with_record(measure(one, count), one, split) for one in opened]
        out.parent.mkdir(parents=True, exist_ok=True)
        places: Record = {one.hash: str(one.path) for one in opened}
        save(results, out, plan=plan, run={**_run_record(time.perf_counter() - started), "checkpoints": places})
        console.say(f"wrote {_shown(out)}")
    else:
        console.say(f"{_shown(out)} is there already")
    made = tables(results)
    console.table("\n".join(table.text() for table in made))
    problems = [problem for result in results if (problem := problem_of(result))]
    if problems:
        raise _CommandError(NUMBER_FAILED, f"{problems[0]}; {_shown(out)} is written and flagged")
    console.next(f"landscape report {_shown(out.parent)}")
    return {"file": str(out), "tables": [{"title": table.title, "rows": list(table.records)} for table in made]}


def _with_record(result: Result, one: _Opened, split: str) -> Result:
    noise = one.checkpoint.config.label_noise if split == "train" else 0.0
    described: Record = {
        "data": one.checkpoint.config.data,
        "split": _SPLITS[split],
        "labels": f"{100 * noise:g} % flipped, as trained" if noise else "clean",
    }
    return dataclasses.replace(result, checkpoint=one.record(), settings={**result.settings, **described})


def _already_measured(out: Path, plan: Record, output: _Output) -> list[Result] | None:
    """The results of an equal plan, where they are there and `--resume` was given."""
    if out.is_dir():
        raise _CommandError(2, f"{out} is a folder; give --out a file name")
    if not out.exists() or output.force:
        return None
    if not output.resume:
        raise _CommandError(6, f"{_shown(out)} exists", "--force replaces it, --resume keeps it if it is the same")
    file = load_file(out)
    differing = [name for name in sorted({*plan, *file.plan}) if plan.get(name) != file.plan.get(name)]
    if differing:
        hint = "--force replaces it, --out writes elsewhere"
        raise _CommandError(3, f"{_shown(out)} has other settings: {', '.join(differing)}", hint)
    return file.results


def _trace(one: _Opened) -> Result:
    from landscape.alignment import congruence_trace

    metrics, config = one.path.parent / "metrics.jsonl", one.checkpoint.config
    settings: Record = {"radius": config.probe_radius, "probe_every": config.probe_every, "mode": "train"}
    try:
        return congruence_trace(metrics.read_text(errors="replace").splitlines(), settings=settings)
    except (ValueError, FileNotFoundError) as error:
        raise _CommandError(3, f"{metrics}: {error}") from error


def _open(path: Path, label: str, device: str) -> _Opened:
    if not path.exists():
        raise _CommandError(2, f"{path} is not there{_nearest_path(path)}")
    from train import checkpoint as checkpoints

    file = path / "last.pt" if path.is_dir() else path
    checkpoint = checkpoints.read(file)
    model, splits = checkpoints.restore(checkpoint)
    return _Opened(
        file, label, checkpoints.content_hash(model.state_dict()), checkpoint, splits, model.to(device), device
    )


def _objective(one: _Opened, split: str, device: str) -> Objective:
    import torch
    from torch import nn

    from landscape.objective import Objective

    inputs, targets = {"train": one.splits.train, "val": one.splits.validation, "test": one.splits.test}[split]
    if not len(targets):
        raise _CommandError(
            2,
            f"{one.path} was trained without a validation part (val_fraction 0)",
            "Training and test part can be measured on",
        )
    batches = _Batches(inputs.to(torch.device(device)), targets.to(device))
    resident = inputs.shape.numel() <= RESIDENT_NUMBERS
    return Objective(one.model, nn.CrossEntropyLoss(), list(batches) if resident else batches)


def _events(out: Path, *, wanted: bool) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """What is called after each epoch, and at the end."""
    if not wanted:
        return contextlib.nullcontext(lambda: None)
    from train.events import tensorboard_events

    return tensorboard_events(out)


def _train(
    config: TrainConfig, out: Path, output: _Output, console: _Console, update: Callable[[], None], *, download: bool
) -> Outcome:
    from train import loop
    from train.distributed import joined

    if config.device == "cuda":
        _device("cuda")
    with _counting(console) as count, _signals_noted() as stop, joined(config.device) as workers:
        if workers.size > 1:
            console.say(_processes_text(config, workers.size))
        if download:
            workers.from_first(lambda: _download(config))

        def progress(at: Progress) -> None:
            loss, accuracy = at.metrics["train_loss"], at.metrics["val_accuracy"]
            told = f"loss {math.nan if loss is None else loss:.3f}"
            told += "" if accuracy is None else f", validation {100 * accuracy:.1f} %"
            told += f", {at.images_per_second:,.0f} images/s"
            count(f"train {config.method}, {told}", "epochs", at.epoch, at.epochs)
            update()

        outcome = loop.train(config, out, resume=output.resume, force=output.force, progress=progress, stop=stop)
        update()  # of a run that was there already, too
        if outcome.status == "stopped":
            console.say(outcome.message)
    return outcome


def _config(recipe: str | None, preset: Preset | None, options: dict[str, str | float]) -> TrainConfig:
    """The settings of the command line; with a recipe, only those that were typed there, over the recipe's."""
    from train import recipes
    from train.config import TrainConfig

    if recipe is None:
        if preset is not None:
            raise click.UsageError("--preset is of a recipe: give --recipe NAME as well")
        return TrainConfig.from_dict(options)
    found = recipes.read(recipe)
    context = click.get_current_context()
    typed = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if "method" not in typed:
        raise click.UsageError(f"the recipe {recipe} has the methods {', '.join(found.methods)}: choose by --method")
    return found.config(str(typed.pop("method")), preset=preset or "paper", changes=typed)


def _list_recipes(console: _Console) -> Record:
    from train import recipes

    found = [recipes.read(name) for name in recipes.names()]
    rows = [("recipe", "reproduces", "the paper has")]
    for one in found:
        expected = ", ".join(f"{method} {value}" for method, value in one.expected.items())
        rows.append((one.name, one.reproduces, expected or "a picture"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console.table("\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows))
    console.say(
        "Test accuracy in %; of a hessian recipe, an eigenvalue on a log scale. --json has the source of each, "
        "and what the paper states and what we chose"
    )
    return {"recipes": [cast(Json, {**vars(one), "requires": list(one.requires)}) for one in found]}


def _dry_run(config: TrainConfig, out: Path, console: _Console) -> Record:
    from train.plan import plan

    with _as_usage_error():
        found = plan(config)
    timing, told = _timing(config, found)
    lines = [
        config.to_toml(),
        f"{found.num_parameters:,} parameters, {found.num_train:,} training examples of {found.num_classes} classes",
        f"{found.num_steps:,} steps: {config.epochs} epochs of {found.steps_per_epoch:,}",
        f"{found.num_gradients:.4g} gradients of a whole batch per step",
        *([_scaled_text(found.scaled_names, config.eta)] if found.scaled_names else []),
        told,
        *([f"warning: {found.warning}"] if found.warning else []),
        f"would write {_shown(out)}",
    ]
    console.table("\n".join(lines))
    return {"settings": cast(Json, config.to_dict()), **cast("Record", vars(found)), "timing": timing, "out": str(out)}


def _timing(config: TrainConfig, plan: Plan) -> tuple[Record | None, str]:
    """What the steps of a run would take, as a record and as a line; without the device, none and why."""
    from train.run import SettingsError, device_of
    from train.timing import time_steps

    try:
        device_of(config.device)
    except SettingsError as error:
        return None, f"time not estimated: {error}"
    found = time_steps(config, image_shape=plan.image_shape, num_classes=plan.num_classes)
    seconds = plan.num_steps * found.seconds_per_step
    times = found.batch_size / found.timed_batch_size
    scaled = f", times {times:.3g}" if times > 1 else ""
    unfit = f" ({found.too_large} did not fit into memory)" if found.too_large else ""
    told = (
        f"about {_duration(seconds)} of steps on {found.device}, {found.seconds_per_step:.3g} s each: an estimate from "
        f"{found.num_timed} on {found.timed_batch_size} random images{scaled}{unfit}; reading images, probes and "
        "evaluation come on top"
    )
    return {**vars(found), "seconds": seconds}, told


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _scaled_text(names: Sequence[str], eta: float) -> str:
    """How many parameters ASAM scales and which, those that differ in their numbers alone as one."""
    kinds = Counter(re.sub(r"\d+", "*", name) for name in names)
    listed = ", ".join(f"{num} {kind}" if num > 1 else kind for kind, num in kinds.items())
    return f"asam scales {len(names)} parameters by |theta| + {eta:g}: {listed} (* is a number; --json names each)"


def _plan_text(config: TrainConfig) -> str:
    from train.plan import published_shape, size_warning

    settings = config.to_dict()
    radii = {
        "sgd": [],
        "sam": ["rho"],
        "sam-subset": ["rho", "split_ratio"],
        "asam": ["rho", "eta"],
    }.get(config.method, ["rho1", "rho2", "split_ratio"])
    method = " ".join([config.method, *(f"{name}={settings[name]:g}" for name in radii)])
    noise = f", {100 * config.label_noise:g} % of the training labels wrong" if config.label_noise else ""
    shape = published_shape(config.data)
    warning = size_warning(config.model, shape) if shape else ""
    return (
        f"{config.model} on {config.data}{noise}: {method} over sgd lr={config.lr:g} momentum={config.momentum:g}, "
        f"{config.epochs} epochs, seed {config.seed}, {config.device}" + (f"\nwarning: {warning}" if warning else "")
    )


def _processes_text(config: TrainConfig, size: int) -> str:
    climbing = {"global": "perturbing together", "local": "each perturbing by itself"}[config.sam_sync]
    if config.method == "sgd":
        climbing = "taking the mean gradient"
    elif config.m:
        climbing = f"perturbing each chunk of {config.m} by itself"
    return f"{size} processes, {climbing}; on CPUs BatchNorm takes its statistics from the examples of each process"


def _outcome_text(outcome: Outcome) -> str:
    metrics = outcome.metrics
    there = " (there already)" if outcome.already_finished else ""
    line = f"saved {_shown(outcome.folder / 'last.pt')}{there}   "
    if outcome.test_accuracy is None:
        return f"{line}epoch {outcome.epoch}, before it diverged"
    loss = metrics["train_loss"]
    line += (
        f"test accuracy {100 * outcome.test_accuracy:.1f} % (last epoch), "
        f"train loss {math.nan if loss is None else loss:.3g}\n"
    )
    average = metrics.get("ema_test_accuracy")
    if average is not None:
        line += (
            f"saved {_shown(outcome.folder / 'ema.pt')}   test accuracy of the averaged weights {100 * average:.1f} %\n"
        )
    if metrics["best_epoch"] is None:
        return f"{line}no best.pt: nothing was held out for validation, so there is nothing to choose an epoch by"
    best = 100 * (metrics["best_val_accuracy"] or 0)
    at = f"best validation accuracy {best:.1f} %, at epoch {metrics['best_epoch']:.0f}"
    return f"{line}saved {_shown(outcome.folder / 'best.pt')}   {at}"


def _outcome_record(outcome: Outcome, seconds: float) -> Record:
    return {
        "status": outcome.status,
        "checkpoint": str(outcome.folder / "last.pt"),
        "epoch": outcome.epoch,
        "metrics": dict(outcome.metrics),
        "already_finished": outcome.already_finished,
        "seconds": seconds,
    }


# Small things


def _labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each checkpoint: runs/sgd/last.pt is "sgd"; as much of the path as tells them apart."""
    parts = []
    for path in paths:
        whole = Path(os.path.abspath(path)).parts  # noqa: PTH100 - links keep the names they were given
        parts.append(whole[:-1] if whole[-1] == "last.pt" and len(whole) > 2 else whole)
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(p[-max(length, 1 + p[-1].endswith(".pt")) :]) for p in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{'/'.join(p)} ({n})" for n, p in enumerate(parts, 1)]


def _common_folder(paths: Sequence[Path]) -> Path:
    folders = [path if path.is_dir() else path.parent for path in paths]
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    return Path(os.path.relpath(common)) if common.is_relative_to(Path.cwd()) else common


def _results_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise _CommandError(2, f"{path} is not there{_nearest_path(path)}")
        files += sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise _CommandError(3, f"no results in {', '.join(map(str, paths))}", "landscape surface CKPT makes some")
    return list(dict.fromkeys(files))


def _nearest_path(path: Path) -> str:
    known = [str(p) for p in path.parent.glob("*")] + [str(p) for p in path.parent.parent.glob("*/*.pt")]
    found = difflib.get_close_matches(str(path), known, n=2, cutoff=0.7)
    return f". Did you mean {' or '.join(found)}?" if found else ""


def _refuse_to_replace(out: Path, force: bool) -> None:
    """A page of ours is made anew whenever there is more to show; anything else stays, unless forced."""
    if out.is_dir():
        raise _CommandError(2, f"{out} is a folder; give --out a file name")
    if not out.exists() or (force and out.is_file()):
        return
    if not out.is_file():
        raise _CommandError(2, f"{out} is not a regular file; give --out another name")
    with out.open("rb") as file:
        if PAGE_MARK.encode() not in file.read(1000):
            raise _CommandError(6, f"{_shown(out)} exists, and is not a page of ours", "--force replaces it")


def _commands_of(files: Sequence[ResultsFile]) -> list[str]:
    """The commands that lead to these results: training first, then measuring, in the order in which they were run."""
    from train.config import TrainConfig

    defaults = TrainConfig().to_dict()
    trained: dict[str, None] = {}
    for run, record in ((file.run, result.checkpoint) for file in files for result in file.results):
        config, places = record.get("config"), run.get("checkpoints")
        if isinstance(config, dict) and isinstance(places, dict):
            chosen = {name: value for name, value in config.items() if value != defaults.get(name)}
            words = [word for name, value in chosen.items() for word in _option(name, value)]
            folder = Path(str(places.get(str(record.get("hash")), "last.pt"))).parent
            trained[shlex.join(["landscape", "train", *words, "--out", str(folder)])] = None
    ran = sorted((file.run for file in files if "command" in file.run), key=lambda run: str(run.get("time")))
    return [*trained, *(str(run["command"]) for run in ran)]


def _option(name: str, value: Json) -> list[str]:
    option = name.replace("_", "-")
    return [f"--{option}" if value else f"--no-{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]


def _writable(out: Path) -> None:
    there = next(
        folder for folder in out.absolute().parents if folder.exists()
    )  # made when there is something to write
    if not os.access(there, os.W_OK):
        raise _CommandError(5, f"{out.parent} cannot be written to", "--out writes elsewhere")


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise _CommandError(5, "no CUDA device here", "--device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _run_record(seconds: float) -> Record:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "command": f"landscape {shlex.join(_words())}",
        "seconds": seconds,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "peak_bytes": peak,
    }


def _words() -> list[str]:
    """The words of the innermost command, without the flags that change no number."""
    words: list[str] = click.get_current_context().meta["words"]
    return [word for word in words if word not in ("--resume", "--force", "--json", "--quiet", "--debug")]


def _versions() -> Record:
    import numpy as np
    import torch

    return {"torch": str(torch.__version__), "numpy": np.__version__, "threads": torch.get_num_threads()}


def _content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def _shown(path: Path) -> str:
    return shlex.quote(str(path))


def _check_grid(steps: int, extent: float) -> None:
    from landscape.surface import grid

    with _as_usage_error():
        grid(steps, extent)


@contextlib.contextmanager
def _as_usage_error() -> Iterator[None]:
    """A refused value came from the command line; a subclass of ValueError did not (a damaged file, say)."""
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError:
            raise click.UsageError(str(error)) from error
        raise


@contextlib.contextmanager
def _counting(console: _Console) -> Iterator[Count]:
    """`count(what, unit, done, total)`: a bar on a terminal, otherwise a plain line every ten seconds."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    state: dict[str, Any] = {"what": "", "last": time.monotonic()}

    def count(what: str, unit: str, done: int, total: int | None) -> None:
        now, name = time.monotonic(), what.split(",")[0]
        if console.quiet:
            return
        if name != state["what"]:
            for bar in bars.values():
                bar.close()
            bars.clear()
            state.update(what=name, started=now, first=done)  # what a resumed run had done says nothing of its pace
        if sys.stderr.isatty():
            if name not in bars:
                bars[name] = tqdm(total=total, initial=done, unit=f" {unit}", leave=False, file=sys.stderr)
            bars[name].set_description(what, refresh=False)
            bars[name].update(done - bars[name].n)
        elif now - state["last"] >= 10:
            told = f"{done}/{total} {unit}" if total else f"{done} {unit}"
            if total and done > state["first"]:
                left = (now - state["started"]) * (total - done) / (done - state["first"])
                told += f", about {left:.0f} s left"
            click.echo(f"{what}: {told}", err=True)
            state["last"] = now

    try:
        yield count
    finally:
        for bar in bars.values():
            bar.close()


# Running, and the errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as we run
    as_json = "--json" in words
    previous = signal.signal(signal.SIGTERM, _terminate)
    show, warnings.showwarning = warnings.showwarning, _show_warning
    rank, size = 0, 1
    try:
        rank, size = _processes()  # torchrun's: only the first one speaks
        if rank:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                app.main(words, prog_name="landscape", standalone_mode=False)
            return 0
        result = app.main(words, prog_name="landscape", standalone_mode=False)
        if as_json and isinstance(result, dict):
            _print_json({"ok": True, "command": words[0], "results": result})
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing stdout says nothing
        return 0
    except SystemExit:  # how click ends when the reader of a pipe has left
        return 0
    except BaseException as error:
        if "--debug" in words:
            traceback.print_exc()
        if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            return 2
        code, message, hint = _explained(error)
        if code == 1 and size > 1 and "peer" in message:  # what is left of it when another process is gone
            code, message, hint = 5, "another process failed", "it says why"
        if rank:  # what is wrong with the command line, the first process says
            if code != 2 and type(error).__name__ != "ToldError":
                click.echo(f"landscape: process {rank}: {message}", err=True)
            return code
        if code in (130, 143) and words[0] in ("train", "demo"):
            torchrun = f"torchrun --no-python --nproc-per-node {size} -- " if size > 1 else ""
            hint = f"{torchrun}landscape {shlex.join(_words_to_go_on(words))} goes on"
        with contextlib.suppress(OSError):  # whoever should read it has left, or the disk is full
            if as_json:
                _print_json({"ok": False, "error": {"code": code, "message": message, "hint": hint}})
            click.echo(f"landscape: {message}{f'. {hint}' if hint else ''}", err=True)
        return code
    finally:
        signal.signal(signal.SIGTERM, previous)
        warnings.showwarning = show


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """One of ours is for the person who gave the options; a library's is for us."""
    if category.__module__.startswith(("train.", "landscape.")):
        click.echo(f"landscape: warning: {message}", err=True)


def _explained(error: BaseException) -> tuple[int, str, str]:
    """Exit code, one line, and what to do."""
    message = " ".join(str(error).split())
    if isinstance(error, _CommandError):
        return error.code, message, error.hint
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"See: {context.command_path} --help" if context is not None else ""
        return 2, " ".join(error.format_message().split()).rstrip("."), hint
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return 130, "interrupted", ""
    if isinstance(error, _Terminated):
        return 143, "terminated", ""
    kind = type(error).__name__
    if kind == "NotRepeatableError" or isinstance(error, FloatingPointError):
        return NUMBER_FAILED, message, ""
    if kind in ("UnsafeCheckpointError", "UnsafeDataError", "OutputExistsError"):
        return 6, message, ""
    if kind == "SettingsError":
        return 2, message, "See: landscape train --help"
    if kind in ("CheckpointError", "ResultsError", "SettingsDifferError", "DataError", "AbsentDataError"):
        return 3, message, ""
    if kind == "LibraryError":
        return 5, message, ""
    if kind == "ToldError":
        return 5, message, ""
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return 5, "out of memory", "use fewer examples or another --device"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 5, f"{where}{error.strerror or message}", ""
    return 1, f"a bug of ours ({kind}: {message})", "--debug shows where; please report it"


def _print_json(document: Record) -> None:
    click.echo(json.dumps(_strict(document), indent=1, ensure_ascii=False, allow_nan=False))


def _strict(value: Json) -> Json:
    """JSON has no NaN and no infinity: they become null, beside their status."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processes() -> tuple[int, int]:
    """Which process this is, and of how many: as torchrun's environment says, if it does."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    found = {name: os.environ.get(name, "") for name in names}
    if found["WORLD_SIZE"] in ("", "1"):
        return 0, 1
    if not all(value.isdigit() for value in found.values()):
        told = ", ".join(f"{name}={value!r}" for name, value in found.items())
        raise click.UsageError(f"the environment is not torchrun's: {told}. Unset WORLD_SIZE for one process")
    return int(found["RANK"]), int(found["WORLD_SIZE"])


def _words_to_go_on(words: list[str]) -> list[str]:
    kept = [word for word in words if word not in ("--force", "--resume")]
    return [*kept, "--resume"] if words[0] == "train" else kept  # a demo goes on by itself


@contextlib.contextmanager
def _signals_noted() -> Iterator[Callable[[], bool]]:
    """Inside, a first SIGINT or SIGTERM is only noted, and raised at the end; a second one is raised at once."""
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise _raised_by(number)

    # one that the caller ignores, as a shell does for what it starts in the background, stays ignored
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if noted:
        raise _raised_by(noted[0])


def _raised_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else _Terminated()


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
