"""The command line: parse, join train and landscape, save, report errors. No mathematics.

stdout carries data (a table, or one JSON document with --json), stderr everything else. Exit codes: 0 done; 1 a bug of
ours; 2 the command line; 3 content of a file, or settings that differ; 4 a number failed its check (what exists is
written and flagged); 5 resources; 6 refused for safety; 130, 143 signals. Nothing here imports torch until a command
needs it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click
from click.shell_completion import CompletionItem

from landscape import outputs
from landscape.naming import common_folder, labels_of, nearest_path
from landscape.results import Json, ResultsFile, load_file, problem_of, save, strict_json, write_atomically

if TYPE_CHECKING:
    from torch import nn

    from landscape.analysis import HessianOptions
    from landscape.evaluator import BatchNorm, Engine, Layout, Precision
    from landscape.ledger import Keep, Replayed
    from landscape.objective import Objective
    from landscape.picture import Width
    from landscape.plane import Plane
    from landscape.plane_options import PlaneOptions
    from landscape.progress import Count
    from landscape.report import PlotlyJs
    from landscape.results import Record, Result, Trajectory
    from landscape.survey import Subject
    from landscape.view import Scale
    from train.checkpoint import Checkpoint, State
    from train.config import TrainConfig
    from train.data import Part, Splits
    from train.data import Record as DataRecord
    from train.loop import Outcome, Progress
    from train.recipes import Preset

BATCH_SIZE = 256  # of a measurement: stays in cache; decides the last bits of a result
SURFACE_BATCH_SIZE = 4096  # at most: cut into micro-batches
RESIDENT_NUMBERS = 2**28  # inputs up to this (1 GiB) are made once, larger ones on each pass
NUMBER_FAILED = 4
_TIED = "\u00a0"  # a space at which no line ends
WIDTH = 100  # of what is printed, at most
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_KEPT = "what was measured is kept: --resume goes on"
_CHANGE_NO_NUMBER = ("--resume", "--force", "--show", "--json", "--quiet", "--debug")
_INSIDE_DEMO = "inside demo"

Command = Callable[..., object]
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class _CommandError(Exception):
    """What a person did, or ran into: one line, and an exit code; of a failed check, the numbers too."""

    def __init__(self, code: int, message: str, hint: str = "", *, results: Record | None = None) -> None:
        super().__init__(message)
        self.code, self.hint, self.results = code, hint, results


@dataclass(frozen=True)
class _Console:
    """What a command may print: results on stdout as tables or JSON, the rest on stderr."""

    as_json: bool
    quiet: bool
    show: bool = False

    @property
    def width(self) -> int:
        """Columns to write in: the terminal's, or all that may be used."""
        return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, 60), WIDTH) if sys.stdout.isatty() else WIDTH

    def wrapped(self, text: str, *, indent: str = "") -> list[str]:
        """Lines of whole words, as wide as may be."""
        wrapper = textwrap.TextWrapper(self.width, indent, indent, break_on_hyphens=False, break_long_words=False)
        return wrapper.wrap(text)

    def table(self, text: str) -> None:
        if not self.as_json:
            click.echo(text)

    def pictures(self, results: Sequence[Result]) -> None:
        """What --show adds to a table: pictures as wide as the terminal, in characters that it can show."""
        if not self.show or self.as_json:
            return
        from landscape.ink import ink_for
        from landscape.sketches import sketch

        height = max(shutil.get_terminal_size((WIDTH, 24)).lines - 1, 12)
        drawn = sketch(results, width=self.width, height=height, ink=ink_for(sys.stdout.encoding))
        if drawn:
            self.table(f"\n{drawn}")
        else:
            self.say("single numbers have no picture")

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
            if force and resume:
                raise click.UsageError("--force starts anew and --resume goes on: give one of them")
            return command(*args, output=_Output(out, force, resume), **others)

        return options(_console_options(packed))

    return decorate


def _show_option(command: Command) -> Command:
    @functools.wraps(command)
    def packed(*args: object, show: bool, console: _Console, **others: object) -> object:
        return command(*args, console=dataclasses.replace(console, show=show), **others)

    return click.option("--show", is_flag=True, help="Draw the results in characters too, below their table.")(packed)


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
_split_option = click.option("--split", type=click.Choice(list(_SPLITS)), default="train", help="Data to measure on.")
_examples_option = click.option(
    "--examples", type=click.IntRange(2), help="Measure on so many examples, drawn by --seed.  [default: all]"
)
_device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."
)
_data_options = _together(_split_option, _examples_option, _device_option)
_seed_option = click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0)


def _train_options(command: Command) -> Command:
    _refuse_another_train_module()
    from train.config import CHOICES, DATA, MODELS, TrainConfig
    from train.meanings import MEANINGS

    known = {**CHOICES, "data": DATA, "model": MODELS}

    def spelled(name: str, kind: str) -> str:
        option = name.replace("_", "-")
        return f"--{option}/--no-{option}" if kind == "bool" else f"--{option}"

    options = [
        click.option(
            spelled(item.name, str(item.type)),
            type={"str": str, "int": int, "float": float, "bool": bool}[str(item.type)],
            default=item.default,
            show_default=item.default != "",
            help=MEANINGS[item.name],
            shell_complete=_one_of(known[item.name]) if item.name in known else _PATHS.get(item.name),
        )
        for item in dataclasses.fields(TrainConfig)
    ]
    return _together(*options)(command)


def _one_of(names: Iterable[str]) -> Callable[..., list[str]]:
    """What a shell is offered for a value."""
    return lambda _context, _parameter, begun: [name for name in names if name.startswith(begun)]


def _a_path(kind: Literal["file", "dir"]) -> Callable[..., list[CompletionItem]]:
    return lambda _context, _parameter, begun: [CompletionItem(begun, type=kind)]


_PATHS = {"weights": _a_path("file"), "data_root": _a_path("dir")}


def _recipe_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    from train import recipes

    return _one_of(recipes.names())(context, parameter, begun)


def _data_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    from train.config import DATA

    return _one_of(DATA)(context, parameter, begun)


def _direction_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    from landscape.plane_options import KINDS

    kinds = _one_of(KINDS)(context, parameter, begun)
    return [CompletionItem(kind) for kind in kinds] or _a_path("file")(context, parameter, begun)


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


@click.group(
    cls=_App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
)
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
    if _processes()[1] > 1 and context.invoked_subcommand not in ("train", "hessian"):
        raise click.UsageError("of all commands only train and hessian share their work among processes of torchrun")


@app.command()
@_train_options
@click.option(
    "--recipe",
    shell_complete=_recipe_names,
    help="An experiment of the paper (--list-recipes): its settings, but for those given here.",
)
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
    from train.telling import outcome_record, outcome_text, start_text

    started = time.perf_counter()
    console.say("\n".join(part for line in start_text(config).splitlines() for part in console.wrapped(line)))
    with _events(out, wanted=tensorboard and _processes()[0] == 0) as update:
        outcome = _train(config, out, output, console, update, download=download)
    console.table(outcome_text(outcome))
    told: Record = {**outcome_record(outcome), "seconds": time.perf_counter() - started}
    if outcome.status == "finished" and outcome.message:
        console.say(outcome.message)
    if outcome.status == "diverged":
        raise _CommandError(NUMBER_FAILED, f"training diverged: {outcome.message}", results=told)
    console.next(f"landscape surface {_shown(out / 'last.pt')}")
    return told


def _look_options(command: Command) -> Command:
    @functools.wraps(command)
    def packed(*args: object, **options: Any) -> object:  # noqa: ANN401 (those of PlaneOptions, and others)
        from landscape.plane_options import PlaneOptions

        asked = {item.name: options.pop(item.name) for item in dataclasses.fields(PlaneOptions)}
        if asked["directions"] == "between" and len(options["checkpoints"]) == 2:
            asked["line"] = True
        return command(*args, look=PlaneOptions(**asked), **options)

    return _together(
        click.option(
            "--directions",
            default="random",
            metavar="KIND|FILE",
            shell_complete=_direction_names,
            help="random; pca of the run's checkpoints; eigenvectors of the Hessian; between two checkpoints (a line) "
            "or three; gradient; sam, its step; or a FILE as --save-directions writes it. Those of pca, eigenvectors "
            "and FILE are the first checkpoint's, one displacement for all.",
        ),
        click.option("--line", is_flag=True, help="Along the first direction alone."),
        click.option(
            "--normalization",
            type=click.Choice(["filter", "layer", "none"]),
            default="filter",
            help="Of random directions: what gets the norm of the model's own weights.",
        ),
        _seed_option,
        click.option("--rho", type=float, help="Of --directions sam: the radius.  [default: 0.05]"),
        click.option(
            "--layers", multiple=True, help="Move these alone: a name or pattern, layer1 or *.weight; repeat it."
        ),
        click.option(
            "--output-dim",
            "output_dims",
            multiple=True,
            metavar="NAME=DIM",
            help="Dimension of the output units of a parameter or type of module, where it is not the usual one.",
        ),
        click.option("--normalize-by", type=click.Path(path_type=Path), help="Another checkpoint's filters, for all."),
        click.option(
            "--trajectory", type=click.Path(path_type=Path), help="A run whose checkpoints are drawn as well."
        ),
        click.option("--save-directions", is_flag=True, help="Write the directions beside the results, as .pt."),
    )(packed)


@app.command()
@_checkpoints_argument
@click.option(
    "--steps", type=int, help="Points along each axis; odd, so that the centre is one.  [default: 51, of a line 61]"
)
@click.option("--extent", type=float, help="Reach to both sides.  [default: 1.0, or what holds all checkpoints]")
@click.option("--interval", type=(float, float), metavar="LOW HIGH", help="Coordinates of each axis, not symmetric.")
@_look_options
@click.option("--explain", is_flag=True, help="Print how the parameters are cut into filters; measure nothing.")
@_data_options
@click.option(
    "--batch-norm",
    type=click.Choice(["frozen", "recalibrated", "train"]),
    default="frozen",
    help="Running statistics as they are, recomputed at each point, or those of each batch.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default="fp32",
    help="Of the forward pass; the error at the centre is stored.",
)
@click.option("--micro-batch", type=click.IntRange(1), help="Examples of a forward pass.  [default: 64, on a GPU 1024]")
@click.option(
    "--layout", type=click.Choice(["contiguous", "channels_last"]), help="Of images.  [default: channels_last]"
)
@click.option("--tune", is_flag=True, help="Find the fastest micro-batch and layout by timing; compile if that repays.")
@click.option(
    "--planes",
    type=click.IntRange(1),
    default=1,
    help="Random planes for each checkpoint, of seeds from --seed on: flatness as mean and spread over them.",
)
@click.option(
    "--paired",
    type=click.IntRange(0, 1024),
    default=0,
    help="Keep the losses of so many examples at each point: then checkpoints are compared example by example.",
)
@click.option("--shard", help="i/n: measure every n-th point, from the i-th; slurm: by the job array's variables.")
@click.option(
    "--max-nonfinite",
    type=click.FloatRange(0, 1),
    default=0.1,
    help="Share of the points that may be not finite; with more the exit code is 4, and the file is written.",
)
@click.option("--devices", help="Share the points among devices, one process each: 0,1,2,3 (GPUs) or cpu,cpu.")
@click.option("--of-devices", is_flag=True, hidden=True)  # a process of --devices, which has looked at the results file
@_output_options("surface.npz beside the checkpoints")
@_show_option
def surface(
    checkpoints: tuple[Path, ...],
    steps: int | None,
    extent: float | None,
    interval: tuple[float, float] | None,
    look: PlaneOptions,
    explain: bool,
    split: str,
    examples: int | None,
    device: str,
    batch_norm: BatchNorm,
    precision: Precision,
    micro_batch: int | None,
    layout: Layout | None,
    tune: bool,
    planes: int,
    paired: int,
    shard: str | None,
    max_nonfinite: float,
    devices: str | None,
    of_devices: bool,
    output: _Output,
    console: _Console,
) -> Record:
    """Measure the loss on a plane through each checkpoint, or a line; all share one pair of raw directions.

    \b
    landscape surface runs/sam/last.pt
    landscape surface runs/*/last.pt --split test --steps 21 --out runs/surface-test.npz
    landscape surface runs/sgd/last.pt runs/sam/last.pt --directions between
    landscape surface runs/sam/last.pt --directions pca --show
    landscape surface runs/sam/last.pt --shard 1/3        and 2/3, 3/3 elsewhere; then landscape merge
    """
    from train.checkpoint import content_hash

    steps = (61 if look.line else 51) if steps is None else steps
    checkpoints = tuple(dict.fromkeys(checkpoints))
    with _as_usage_error():
        look.check(len(checkpoints))
    if planes > 1 and (look.directions != "random" or look.line or look.trajectory is not None):
        raise click.UsageError("--planes is of random planes: leave out --directions, --line and --trajectory")
    if interval is None:
        _check_grid(steps, 1.0 if extent is None else extent)
    if explain:
        return _explained_each(checkpoints, "cpu", functools.partial(_explain_filters, look, console), console)
    normalize_by = None if look.normalize_by is None else _open(look.normalize_by, "--normalize-by", _device(device))
    run_folder = look.trajectory or (_folder_of(checkpoints[0]) if look.directions == "pca" else None)
    run = [] if run_folder is None else _run_states(run_folder)
    how: dict[str, Any] = {"batch_norm": batch_norm, "precision": precision}
    how |= {"micro_batch": micro_batch, "layout": layout, "tune": tune}
    options: Record = {
        **{"steps": steps, "extent": extent, "interval": None if interval is None else list(interval)},
        **{**look.record(), "normalize_by": None if normalize_by is None else normalize_by.hash},
        "run": [content_hash(state) for _, state in run],
        **how,
        **{"planes": planes, "examples": examples, "paired": paired, "max_nonfinite": max_nonfinite},
    }
    if devices is not None and shard is not None:
        raise click.UsageError("--devices makes shards of its own: leave out --shard")
    work = _Work.of("surface", checkpoints, split, device, options, output)
    done = None if of_devices else work.done(output)
    if done is not None:
        return _told(work.out, done, console, there=True)
    _refuse_other_architectures([*work.opened, *([] if normalize_by is None else [normalize_by])])
    from landscape import journal, survey
    from landscape.progress import counting

    if devices is not None:
        with _noting_what_is_kept(journal.folder_of(work.out)):
            return _on_devices(work, devices, output, console)
    with _as_usage_error():
        shard_of = (1, 1) if shard is None else journal.parse_shard(shard, os.environ)
    folder = survey.begin(work.out, work.plan, shard_of, force=output.force, resume=output.resume)
    started = time.perf_counter()
    seen = functools.partial(_objective, batch_norm=batch_norm, batch_size=SURFACE_BATCH_SIZE)
    measured = [
        (one, seen(one, _chosen(one, split, examples, look.seed)))
        for one in (work.opened[:1] if look.directions == "between" else work.opened)
    ]
    with _noting_what_is_kept(folder), counting(quiet=console.quiet) as count, _as_usage_error():
        subjects = [
            dataclasses.replace(one, settings={**one.settings, "max_nonfinite": max_nonfinite})
            for one in _subjects(work, measured, look, normalize_by, run, planes, split, output, count)
        ]
        engine = functools.partial(survey.one_engine, subjects, steps=steps, **how)
        plans = survey.plan_all(
            folder, work.plan, subjects, steps=steps, extent=extent, interval=interval, engine=engine, paired=paired
        )
        survey.run_shard(
            folder,
            plans,
            subjects,
            shard_of,
            progress=lambda label, done, total: count(f"surface {label}", "points", done, total),
        )
    if shard_of != (1, 1) or of_devices:
        console.say(f"shard {shard_of[0]}/{shard_of[1]} is measured")
        console.next(f"landscape merge {_shown(work.out)}   once all shards are")
        return {"journal": str(folder), "shard": list(shard_of)}
    with _noting_what_is_kept(folder):
        return _merged(work.out, console, seconds=time.perf_counter() - started, places=work.places())


@app.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--to", "kind", required=True, type=click.Choice(["csv", "json", "vtk", "png", "svg", "pdf"]), help="The format."
)
@click.option("--relief", is_flag=True, help="Pictures in three dimensions, in the place of contours.")
@click.option(
    "--width", type=click.Choice(["single", "double"]), help="Pictures as wide as a column, or two.  [default: its own]"
)
@click.option("--scale", type=click.Choice(["auto", "linear", "log"]), default="auto", help="Of surfaces.")
@click.option("--clip", type=float, metavar="LOSS", help="Surfaces up to this loss; the bar says so.")
@click.option("--out", type=click.Path(), help="File or folder to write.  [default: FILE with the other suffix]")
@click.option("--force", is_flag=True, help="Replace what is there.")
@_console_options
def export(
    file: Path,
    kind: str,
    relief: bool,
    width: Width | None,
    scale: Scale,
    clip: float | None,
    out: str | None,
    force: bool,
    console: _Console,
) -> Record:
    """Write results for other programs: tables, ParaView, pictures for paper.

    \b
    landscape export runs/surface.npz --to csv
    landscape export runs/surface.npz --to pdf --width double --out figure-3.pdf
    """
    from landscape.export import PICTURES, TABLES, picture_files
    from landscape.gallery import drawings, undrawn

    of_pictures = {"relief": relief, "width": width, "scale": scale != "auto", "clip": clip is not None}
    for name, given in of_pictures.items() if kind not in PICTURES else ():
        if given:
            raise click.UsageError(f"--{name} is of pictures ({', '.join(PICTURES)}), not of {kind}")
    if not file.exists():
        raise _CommandError(2, f"{file} is not there{nearest_path(file)}")
    results = load_file(file).results
    stem = file if out is None else Path(out)
    if out is not None and (out.endswith(os.sep) or stem.is_dir()):
        stem /= file.name
    drawn = []
    with _as_usage_error():
        if kind in PICTURES:
            drawn = drawings(results, relief=relief, width=width, scale=scale, clip=clip)
            written = picture_files(drawn, stem, kind)
        else:
            written = TABLES[kind](results, stem)
    for path in written:
        if path.exists() and not force:
            raise _CommandError(6, f"{_shown(path)} exists", "--force replaces it")
    for path, content in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    captions = [f": {one.caption}" for one in drawn] or [""] * len(written)
    for path, told in zip(written, captions, strict=True):
        console.say(f"wrote {_shown(path)}{told}")
    left_out = undrawn(results) if drawn else ""
    if left_out:
        console.say(left_out)
    return {"files": [str(path) for path in written], "captions": [one.caption for one in drawn], "note": left_out}


@app.command()
@click.argument("out", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--partial", is_flag=True, help="Though points are missing: the finest whole grid there is, an early picture."
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@_console_options
def merge(out: Path, partial: bool, force: bool, console: _Console) -> Record:
    """Put the shards of a surface together: FILE is the results file that they were to make.

    \b
    landscape merge runs/surface.npz
    landscape merge runs/surface.npz --partial      what is there so far; the shards may go on
    """
    from landscape import journal

    folder = journal.folder_of(out)
    if not folder.is_dir():
        raise _CommandError(
            2, f"{folder} is not there{nearest_path(folder)}", "shards make it: landscape surface --shard"
        )
    if out.exists() and not force and not load_file(out).plan.get(outputs.EARLY):
        raise _CommandError(6, f"{_shown(out)} exists", "--force replaces it")
    return _merged(out, console, partial=partial)


@app.command()
@_checkpoints_argument
@click.option("--top", type=click.IntRange(1), default=5, help="How many eigenvalues, at each end.")
@click.option(
    "--which",
    type=click.Choice(["largest", "smallest", "both"]),
    default="largest",
    help="The end of the spectrum: the largest eigenvalues, the most negative ones, or both.",
)
@click.option(
    "--tolerance", type=float, default=1e-3, help="Residual over the largest |lambda|; float32 resolves 1e-6."
)
@click.option(
    "--max-matvecs",
    type=click.IntRange(1),
    default=200,
    help="Products at most for the eigenvalues of each checkpoint.",
)
@click.option(
    "--basis-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Vectors of the iteration held at a time.  [default: 40 of them]",
)
@click.option("--budget", type=click.IntRange(1), help="Everything in so many products: eigenvalues, density, trace.")
@click.option(
    "--density",
    is_flag=True,
    help="The density of all eigenvalues, with a band over 4 random probes of 80 products each.",
)
@click.option("--trace", is_flag=True, help="The trace, with a standard error, and the effective rank; 60 products.")
@click.option(
    "--operator",
    type=click.Choice(["hessian", "gauss-newton", "fisher", "empirical-fisher"]),
    default="hessian",
    help="The matrix; the labels of fisher are drawn from the model, by --seed.",
)
@click.option(
    "--protocol",
    type=click.Choice(["clean", "paper"]),
    default="clean",
    help="paper: what its numbers on a log scale most likely are, sums over batches of 128 without biases and norms.",
)
@click.option(
    "--engine",
    type=click.Choice(
        [
            *("retained", "recomputed", "forward-over-reverse", "compiled", "finite-differences"),
            *("finite-differences-across-kinks", "timed"),
        ]
    ),
    default="retained",
    metavar="NAME",
    help="How a product of the Hessian is made: retained, recomputed, forward-over-reverse, compiled, "
    "finite-differences, finite-differences-across-kinks; timed takes the fastest.",
)
@click.option("--layers", multiple=True, help="The block of these layers: a name or pattern; repeat it.")
@click.option(
    "--batch-norm",
    type=click.Choice(["frozen", "train"]),
    default="frozen",
    help="Running statistics as they are, or those of each batch.",
)
@click.option(
    "--data-error",
    is_flag=True,
    help="What eigenvalues and trace owe to the sample of examples, from random parts of it; some 60 products.",
)
@click.option(
    "--per-layer", is_flag=True, help="The eigenvalues of each layer's own block as well; some 40 products for each."
)
@click.option("--diagonal", is_flag=True, help="The diagonal, and the trace of each tensor, with standard errors.")
@click.option("--explain", is_flag=True, help="Print how a product is made, and its time; measure nothing.")
@click.option("--cross-check", is_flag=True, help="PyHessian's top eigenvalue and trace on the same data, beside ours.")
@click.option("--save-vectors", is_flag=True, help="Keep the eigenvectors in the results file.")
@_seed_option
@_data_options
@_output_options("hessian.npz beside the checkpoints")
@_show_option
def hessian(
    checkpoints: tuple[Path, ...],
    explain: bool,
    seed: int,
    split: str,
    examples: int | None,
    device: str,
    output: _Output,
    console: _Console,
    **asked: Any,  # noqa: ANN401 (those of HessianOptions)
) -> Record:
    """Measure the largest eigenvalues of the Hessian of the mean loss, each with its true residual.

    \b
    landscape hessian runs/sam/last.pt
    landscape hessian runs/sgd/last.pt runs/sam/last.pt --budget 100
    landscape hessian runs/sam/last.pt --which both --operator gauss-newton
    landscape hessian runs/sam/last.pt --cross-check
    landscape hessian runs/*/last.pt --protocol paper
    landscape hessian runs/sam                 a run with several checkpoints: through training
    torchrun --no-python --nproc-per-node 4 -- landscape hessian runs/sam/last.pt
    """
    from landscape.analysis import HessianOptions

    with _as_usage_error():
        wanted = HessianOptions(**asked, seed=seed)
    given = click.get_current_context().get_parameter_source("max_matvecs")
    if wanted.budget is not None and given is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--budget bounds all products, and --max-matvecs those of the eigenvalues: give one")
    measure = functools.partial(_hessian, checkpoints, wanted, explain, split, examples, device, output, console)
    if _processes()[1] == 1:
        return measure()
    with _as_usage_error():
        wanted.check_shared()
    from landscape.distributed import together
    from train.distributed import joined

    with joined(device):
        return together(measure)


def _hessian(
    checkpoints: tuple[Path, ...],
    wanted: HessianOptions,
    explain: bool,
    split: str,
    examples: int | None,
    device: str,
    output: _Output,
    console: _Console,
) -> Record:
    """What hessian measures, in each of the processes that share it."""
    seed, checkpoints = wanted.seed, tuple(dict.fromkeys(checkpoints))
    if explain:

        def explain_one(one: _Opened) -> Record:
            objective = _objective(one, _chosen(one, split, examples, seed), batch_norm=wanted.batch_norm)
            with _as_usage_error():
                return _explain_products(objective, wanted, console)

        return _explained_each(checkpoints, _device(device), explain_one, console)
    folders = {label: path for label, path in zip(labels_of(checkpoints), checkpoints, strict=True) if path.is_dir()}
    read = {label: _run_states(path) for label, path in folders.items()}
    runs = {label: run for label, run in read.items() if len(run) > 1}
    if runs:
        with _as_usage_error():
            wanted.check_run()

    def measure(one: _Opened, count: Count, keep: Keep) -> list[Result]:
        with _as_usage_error():
            if one.label in runs:
                return [_followed(one, runs[one.label], wanted, split, examples, count, keep)]
            return keep("checkpoint", functools.partial(measure_one, one, count))

    def measure_one(one: _Opened, count: Count, replayed: Replayed) -> list[Result]:
        objective = _objective(one, _chosen(one, split, examples, seed), batch_norm=wanted.batch_norm)
        told = f"hessian {one.label}"
        return hessian_analysis(
            objective, wanted, replayed=replayed, progress=lambda done: count(told, "products", done, None)
        )

    from landscape.analysis import check_fit, hessian_analysis
    from train.checkpoint import content_hash

    options: Record = {**wanted.record(), "examples": examples}
    if _processes()[1] > 1:
        options["processes"] = _processes()[1]
    if runs:
        options["runs"] = {label: [content_hash(state) for _, state in run] for label, run in runs.items()}

    def check(one: _Opened) -> None:
        _refuse_misfits(one.model, [state for _, state in runs.get(one.label, [])])
        objective = _objective(one, _chosen(one, split, examples, seed), batch_norm=wanted.batch_norm)
        with _as_usage_error(one.label if len(checkpoints) > 1 else ""):
            check_fit(objective, wanted)

    kept = wanted.engine != "timed"  # which may choose another engine when it goes on
    return _measure_all(
        "hessian", checkpoints, split, device, options, measure, output, console, check=check, kept=kept
    )


@app.command()
@click.argument("paths", metavar="CKPT|RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--radius", type=float, default=0.05, help="Of the validation ascent, where it is measured now.")
@_device_option
@_output_options("alignment.npz beside the runs")
@_show_option
def alignment(paths: tuple[Path, ...], radius: float, device: str, output: _Output, console: _Console) -> Record:
    """Show how well training and validation gradients agree: the trace of a RUN folder, or measured at a CKPT.

    \b
    landscape alignment runs/sgd runs/sam
    landscape alignment runs/sam/last.pt
    """
    if len({path.is_dir() for path in paths}) > 1:
        raise click.UsageError("give either run folders (their traces) or checkpoint files (measured now), not both")
    traced = paths[0].is_dir()

    def measure(one: _Opened, _count: Count, _keep: Keep) -> Result:
        from landscape.alignment import gradient_congruence

        if traced:
            return _trace(one)
        with _as_usage_error():
            train, validation = (_objective(one, _chosen(one, split)) for split in ("train", "val"))
            return gradient_congruence(train, validation, radius=radius)

    if traced:
        options: Record = {"metrics": [_content_hash(path / "metrics.jsonl") for path in paths]}
    else:
        options = {"radius": radius}
    return _measure_all("alignment", paths, "train", device, options, measure, output, console)


@app.command()
@click.argument("paths", metavar="RUN|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write.  [default: report.html beside them]")
@click.option("--title", default="Loss landscape", help="Of the page.")
@click.option("--force", is_flag=True, help="Replace a file that is not a page of ours.")
@click.option(
    "--plotlyjs",
    type=click.Choice(["embedded", "directory"]),
    default="embedded",
    help="In the page, or as one file beside it that all pages of the folder share.",
)
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@_console_options
def report(
    paths: tuple[Path, ...],
    out: Path | None,
    title: str,
    force: bool,
    plotlyjs: PlotlyJs,
    open_it: bool,
    console: _Console,
) -> Record:
    """Write one offline HTML page of all results in the files and folders.

    \b
    landscape report runs
    landscape report runs --plotlyjs directory
    landscape report runs/surface.npz runs/hessian.npz --out page.html --open
    """
    from landscape.report import write_report

    files = _results_files(paths)
    out = out or common_folder(paths) / "report.html"
    outputs.refuse_to_replace(out, force=force)
    loaded = [load_file(file) for file in files]
    results = [result for file in loaded for result in file.results]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_report(results, out, title=title, commands=_commands_of(loaded), plotlyjs=plotlyjs)
    except FileExistsError as error:
        raise _CommandError(6, str(error)) from None
    console.say(f"wrote {_shown(out)}")
    if open_it:
        webbrowser.open(out.resolve().as_uri())
    return {"report": str(out), "num_results": len(results), "files": [str(file) for file in files]}


def _data_root_option(command: Command) -> Command:
    from train.meanings import MEANINGS

    return click.option(
        "--data-root", default="", show_default=False, help=MEANINGS["data_root"], shell_complete=_PATHS["data_root"]
    )(command)


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
    from train.data import records, records_text

    found = records(root_of(data_root))
    console.table(records_text(found))
    console.say(f"data root: {root_of(data_root)}   also: imagefolder:PATH, npz:PATH")
    return {"data_root": str(root_of(data_root)), "data": [_data_record(one) for one in found]}


@data.command("path")
@click.argument("name", shell_complete=_data_names)
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
@click.argument("name", shell_complete=_data_names)
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


def _data_record(one: DataRecord) -> Record:
    return {**vars(one), "sizes": list(one.sizes) if one.sizes else None}


def _download(config: TrainConfig) -> None:
    from train.data import data_root, download

    with contextlib.redirect_stdout(sys.stderr):  # torchvision prints
        download(config.data, data_root(config.data_root))


@app.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"))
@click.option("--epochs", type=click.IntRange(1), default=40)
@click.option("--steps", type=int, default=21, help="Points along each axis of the surfaces.")
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
    from landscape.tables import summary_table
    from train.demo import NOISE, STORY

    _check_grid(steps, 1.0)
    told = {"--json": console.as_json, "--quiet": console.quiet}
    flags = ["--force" if force else "--resume", *(flag for flag, given in told.items() if given)]
    console.table(STORY)
    found: Record = {}
    for command in _demo_commands(out, epochs, steps):
        console.table(f"\n{_prompt(command, console.width)}")
        found[shlex.join(command)] = _inside_demo([*command, *flags])
    page, picture = out / "report.html", out / "demo.png"
    title = f"Digits with {100 * NOISE:g} % wrong labels"
    _inside_demo(["report", str(out), "--out", str(page), "--title", title, "--quiet"])
    files = [out / f"{name}.npz" for name in ("surface-train", "surface-test", "hessian")]
    results = [result for file in files for result in load_file(file).results]
    _draw_picture(results, picture)
    summary = summary_table(results)
    console.table(f"\n{summary.text(console.width)}")
    console.table(f"\nthe page: {_shown(page)}   the picture: {_shown(picture)}")
    if open_it:
        webbrowser.open(page.resolve().as_uri())
    return {"report": str(page), "picture": str(picture), "table": list(summary.records), "commands": found}


def _prompt(command: Sequence[str], width: int) -> str:
    """A command line as it can be typed, in lines of whole words."""
    lines = ["$ landscape"]
    for word in map(shlex.quote, command):
        if len(lines[-1]) + len(word) + len(" \\") >= width:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _inside_demo(command: list[str]) -> Json:
    try:
        return cast(Json, app.main(command, prog_name="landscape", standalone_mode=False, obj=_INSIDE_DEMO))
    except (_CommandError, ValueError) as error:
        if _explained(error)[0] != 3:
            raise
        hint = "landscape demo --force makes it all anew, --out another folder beside it"
        raise _CommandError(3, str(error).removesuffix(": --force replaces it"), hint) from error


def _demo_commands(out: Path, epochs: int, steps: int) -> list[list[str]]:
    from train.demo import train_commands

    runs = train_commands(out, epochs)
    commands, checkpoints = [*runs.values()], [f"{run}/last.pt" for run in runs]
    for split in ("train", "test"):
        to = str(out / f"surface-{split}.npz")
        commands.append(["surface", *checkpoints, "--steps", str(steps), "--split", split, "--out", to])
    commands.append(["hessian", *checkpoints, "--out", str(out / "hessian.npz")])
    commands.append(["alignment", *runs, "--out", str(out / "alignment.npz")])
    return commands


def _draw_picture(results: Sequence[Result], path: Path) -> None:
    from landscape.figures import overview_picture
    from landscape.results import Surface

    figure = overview_picture([result for result in results if isinstance(result, Surface)])
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))


# Measuring: what surface, hessian and alignment have in common


@dataclass(frozen=True)
class _Work:
    """Checkpoints to be measured, where the results go, and all that decides them."""

    opened: list[_Opened]
    out: Path
    plan: Record

    @classmethod
    def of(
        cls, command: str, paths: Sequence[Path], split: str, device: str, options: Record, output: _Output
    ) -> _Work:
        from landscape.machine import versions

        device = _device(device)
        paths = list(dict.fromkeys(paths))
        opened = [_open(path, label, device) for path, label in zip(paths, labels_of(paths), strict=True)]
        plan: Record = {
            "command": command,
            "checkpoints": [one.hash for one in opened],
            "labels": [one.label for one in opened],
            "data": [str(one.checkpoint.data["hash"]) for one in opened],
            "split": split,
            "device": device,
            "batch_size": BATCH_SIZE,
            "versions": versions(),
            **options,
        }
        return cls(opened, output.path or common_folder(paths) / f"{command}.npz", plan)

    def places(self) -> Record:
        return {one.hash: str(one.path) for one in self.opened}

    def done(self, output: _Output) -> list[Result] | None:
        """The results of an equal plan, where they are there and may be kept; otherwise the file may be written."""
        from landscape import journal

        results = outputs.finished(self.out, self.plan, force=output.force, resume=output.resume)
        if results is not None:
            journal.forget(journal.folder_of(self.out), self.plan)
        return results

    @contextlib.contextmanager
    def ledger(self, output: _Output) -> Iterator[Keep]:
        """Inside, what keeps the steps of a measurement: new, or one to go on with."""
        from landscape import ledger
        from landscape.distributed import from_first

        folder = from_first(lambda: ledger.begin(self.out, force=output.force, resume=output.resume))
        with _noting_what_is_kept(folder), ledger.opened(folder, self.plan, anew=output.force) as kept:
            yield kept.step


@contextlib.contextmanager
def _noting_what_is_kept(folder: Path) -> Iterator[None]:
    """Whatever ends a measurement inside can say whether it may go on."""
    from landscape import ledger

    try:
        yield
    except BaseException as error:
        if ledger.begun(folder) and click.get_current_context().find_root().obj != _INSIDE_DEMO:
            error.add_note(_KEPT)
        raise


def _measure_all(
    command: str,
    paths: Sequence[Path],
    split: str,
    device: str,
    options: Record,
    measure: Callable[[_Opened, Count, Keep], Result | list[Result]],
    output: _Output,
    console: _Console,
    *,
    check: Callable[[_Opened], object] = lambda one: one,
    kept: bool = False,
) -> Record:
    """Measure every checkpoint, save all results in one file, print their table; or read the file that is there.

    Of each checkpoint `check` refuses what cannot be measured before the first one is; what one has no number for does
    not take those of others. What is `kept` of a measurement that was stopped is not measured again.
    """
    from landscape.distributed import from_first, place
    from landscape.ledger import unkept
    from landscape.objective import NotRepeatableError
    from landscape.products import NotTwiceDifferentiableError
    from landscape.progress import counting

    work = _Work.of(command, paths, split, device, options, output)
    results = from_first(lambda: work.done(output))
    if results is not None:
        return _told(work.out, results, console, there=True)
    for one in work.opened:
        check(one)
    started = time.perf_counter()
    with work.ledger(output) if kept else contextlib.nullcontext(unkept) as keep:
        results, failed = [], list[str]()
        with counting(quiet=console.quiet) as count:
            for index, one in enumerate(work.opened):
                try:
                    made = measure(one, count, lambda name, make, index=index: keep(f"{index}-{name}", make))  # type: ignore[misc]
                except (FloatingPointError, click.UsageError, NotTwiceDifferentiableError, NotRepeatableError) as error:
                    alone = not isinstance(error, FloatingPointError)  # of several processes, perhaps of this one
                    if alone and (not results or place()[1] > 1):
                        raise
                    failed.append(f"{one.label}: {error}")
                    continue
                listed = made if isinstance(made, list) else [made]
                results += [_with_record(result, one, split) for result in listed]
        if not results:
            raise FloatingPointError("; ".join(failed))
        if place()[0] == 0:
            plan: Record = {**work.plan, outputs.FAILED: cast(Json, failed)} if failed else work.plan
            run = {**_run_record(time.perf_counter() - started), "checkpoints": work.places()}
            _save(results, work.out, plan=plan, run=run, console=console)
            console.say(f"wrote {_shown(work.out)}")
    return _told(work.out, results, console, failed=failed)


def _save(results: Sequence[Result], out: Path, *, plan: Record, run: Record, console: _Console) -> None:
    """Write the results file or, where that cannot be, show what would be in it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save(results, out, plan=plan, run=run)
    except OSError as error:
        code, message, hint = _explained(error)
        raise _CommandError(code, message, hint, results={"tables": _tabled(results, console)}) from error


def _tabled(results: Sequence[Result], console: _Console) -> Json:
    """The tables of results, printed."""
    from landscape.tables import tables
    from landscape.typesetting import joined

    made = tables(results)
    console.table(joined(made, console.width))
    return [{"title": one.title, "rows": list(one.records), "notes": list(one.notes)} for one in made]


def _told(
    out: Path, results: Sequence[Result], console: _Console, *, there: bool = False, failed: Sequence[str] = ()
) -> Record:
    """The table of results that are in a file, or the check that one of them failed."""
    if there:
        console.say(f"{_shown(out)} is there already")
    told: Record = {"file": str(out), "tables": _tabled(results, console)}
    console.pictures(results)
    problems = [*failed, *(problem for result in results if (problem := problem_of(result)))]
    if problems:
        raise _CommandError(NUMBER_FAILED, f"{problems[0]}; {_shown(out)} is written and flagged", results=told)
    console.next(f"landscape report {_shown(out.parent)}")
    return told


def _merged(
    out: Path, console: _Console, *, partial: bool = False, seconds: float = 0.0, places: Record | None = None
) -> Record:
    from landscape import journal, survey

    folder = journal.folder_of(out)
    plan, surfaces = survey.merge(folder, partial=partial)
    results: list[Result] = list(surfaces)
    early: Record = {outputs.EARLY: True} if partial else {}
    run = {**_run_record(seconds), "checkpoints": places or {}}
    _save(results, out, plan={**plan, **early}, run=run, console=console)
    if not partial:
        journal.remove(folder, wait=True)
    console.say(f"wrote {_shown(out)}" + (f"   {_cost(run)}" if seconds else ""))
    return _told(out, results, console)


def _on_devices(work: _Work, devices: str, output: _Output, console: _Console) -> Record:
    """One process for each device, each a shard; then all of it merged."""
    from landscape import survey

    names = [name.strip() for name in devices.split(",")]
    if not all(name == "cpu" or name.isdigit() for name in names):
        raise click.UsageError(f"--devices takes numbers of GPUs, or cpu, with commas between: got {devices!r}")
    for index in range(1 if output.force else len(names)):
        shard = (index + 1, 1 if output.force else len(names))
        survey.begin(work.out, work.plan, shard, force=output.force, resume=output.resume)
    given = itertools.pairwise(["", *_words()])
    words = [word for before, word in given if "--devices" not in (before, word.partition("=")[0])]
    started = time.perf_counter()
    running = []
    for index, name in enumerate(names, 1):
        device, visible = ("cpu", "") if name == "cpu" else ("cuda", name)
        own = ["--shard", f"{index}/{len(names)}", "--resume", "--device", device, "--out", str(work.out), "--quiet"]
        own.append("--of-devices")
        command = [sys.executable, str(Path(__file__).resolve()), *words, *own]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    try:
        told = [process.communicate()[1].decode(errors="replace").splitlines() for process in running]
    finally:
        for process in running:
            process.terminate()  # of those that go on when one is interrupted
    for name, process, lines in zip(names, running, told, strict=True):
        if process.returncode:
            reason = lines[-1].removeprefix("landscape: ") if lines else f"ended with {process.returncode}"
            raise _CommandError(max(process.returncode, 1), f"device {name}: {reason}")
    return _merged(work.out, console, seconds=time.perf_counter() - started, places=work.places())


def _followed(
    one: _Opened,
    run: Sequence[tuple[int, State]],
    asked: HessianOptions,
    split: str,
    examples: int | None,
    count: Count,
    keep: Keep,
) -> Result:
    """The curvature of each checkpoint of a run, with the learning rates it was trained with."""
    from landscape.analysis import chosen_operator
    from landscape.distributed import shared_gradient
    from landscape.following import curvature_trace, stability_limit
    from train.schedule import learning_rate

    part, config = _chosen(one, split, examples, asked.seed), one.checkpoint.config
    rates = [learning_rate(config, max(epoch - 1, 0)) for epoch, _ in run]
    stable = functools.partial(
        stability_limit, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay
    )
    limits = [stable(rate) if config.method == "sgd" else math.nan for rate in rates]
    points = ((epoch, _objective(dataclasses.replace(one, model=model), part)) for epoch, model in _models(one, run))
    return curvature_trace(
        points,
        k=asked.top,
        tolerance=asked.tolerance,
        seed=asked.seed,
        max_matvecs=asked.max_matvecs,
        rho=config.rho,
        learning_rates=rates,
        stability_limits=limits,
        progress=lambda done, products: count(
            f"hessian {one.label}, {products} products", "checkpoints", done, len(run)
        ),
        operator_of=lambda objective: chosen_operator(objective, asked),
        gradient_of=shared_gradient,
        keep=keep,
    )


def _explained_each(
    paths: Sequence[Path], device: str, explain: Callable[[_Opened], Record], console: _Console
) -> Record:
    """What --explain prints of each checkpoint, below its name where there are several."""
    found: list[Record] = []
    for path, label in zip(paths, labels_of(paths), strict=True):
        one = _open(path, label, device)
        if len(paths) > 1:
            console.table(f"{label}:")
        found.append({"checkpoint": label, **explain(one)})
    return found[0] if len(found) == 1 else {"checkpoints": cast(Json, found)}


def _explain_products(objective: Objective, asked: HessianOptions, console: _Console) -> Record:
    from landscape.analysis import product_cost
    from landscape.typesetting import listed

    told = product_cost(objective, asked)
    console.table(listed(told))
    return told


def _subjects(
    work: _Work,
    measured: Sequence[tuple[_Opened, Objective]],
    look: PlaneOptions,
    normalize_by: _Opened | None,
    run: Sequence[tuple[int, State]],
    num_planes: int,
    split: str,
    output: _Output,
    count: Count,
) -> list[Subject]:
    """What is to be measured: for each checkpoint its line or plane, or several planes."""
    from landscape.plane import moved
    from landscape.plane_options import KINDS, OF_EACH, plane_of
    from landscape.survey import Subject

    others = [_objective(other, _chosen(other, split)) for other in work.opened[len(measured) :]]
    by = None if normalize_by is None else _objective(normalize_by, _chosen(normalize_by, split))
    names, states = [other.label for other in work.opened], [state for _, state in run]
    run_name = "" if not run or look.line else (look.trajectory or _folder_of(work.opened[0].path)).name
    if look.directions == "pca":
        _refuse_misfits(measured[0][1].model, states)
    found: list[Subject] = []
    for one, objective in measured:
        for index in range(num_planes):
            known = bool(found) and look.directions not in OF_EACH
            if known:
                plane = moved(found[0].plane, objective)
            elif look.directions in KINDS:
                plane = plane_of(
                    objective,
                    dataclasses.replace(look, seed=look.seed + index),
                    normalize_by=by,
                    others=others,
                    names=names,
                    run=states,
                    progress=lambda done: count("eigenvectors", "products", done, None),
                )
            else:
                plane = _given_plane(objective, Path(look.directions), look)
            if look.save_directions and not known:
                _save_directions(plane, objective, len(found) + 1, look, work, output)
            found.append(
                Subject(
                    label=one.label if num_planes == 1 else f"{one.label} plane {index + 1} of {num_planes}",
                    objective=objective,
                    plane=plane,
                    checkpoint={**one.record(), "theta_hash": objective.theta_hash},
                    settings={**_described(one, split), **({"trajectory_of": run_name} if run_name else {})},
                    trajectory=functools.partial(_projected, objective, plane, one, run)
                    if look.trajectory is not None or (run and not look.line)
                    else None,
                )
            )
    return found


def _given_plane(objective: Objective, path: Path, look: PlaneOptions) -> Plane:
    from landscape.directions import along, axis_line
    from train import checkpoint as checkpoints

    checkpoints.check_archive(path)
    content = checkpoints.load_plain(path)
    axes = [content[name] for name in ("axis0", "axis1") if name in content] if isinstance(content, dict) else []
    if not axes or not all(isinstance(axis, dict) for axis in axes):
        hint = 'it is to hold {"axis0": {parameter: tensor}, "axis1": ...}, as --save-directions writes it'
        raise _CommandError(3, f"{path} holds no directions", hint)
    if len(axes) == 1 and not look.line:
        raise click.UsageError(f"{path} holds one direction: it makes a line, --line")
    try:
        plane = along(objective, *axes, layers=look.layers)
    except ValueError as error:
        raise _CommandError(3, f"{path}: {error}") from error
    return axis_line(plane) if look.line else plane


def _run_states(folder: Path) -> list[tuple[int, State]]:
    """Epoch and weights of each checkpoint along a run."""
    from train import checkpoint as checkpoints
    from train.folder import kept_checkpoints

    if not folder.is_dir():
        raise _CommandError(2, f"{folder} is not the folder of a run{nearest_path(folder)}")
    read = [checkpoints.read(path) for path in kept_checkpoints(folder)]
    return sorted({one.epoch: one.model for one in read}.items())  # last.pt is often an epoch that was kept as well


def _projected(
    objective: Objective, plane: Plane, one: _Opened, run: Sequence[tuple[int, State]], engine: Engine
) -> Trajectory:
    from landscape.trajectory import project_run

    return project_run(objective, plane, _models(one, run), engine=engine)


def _models(one: _Opened, run: Sequence[tuple[int, State]]) -> Iterator[tuple[int, nn.Module]]:
    """The checkpoints of a run as models, one at a time."""
    _refuse_misfits(one.model, [state for _, state in run])
    for epoch, state in run:
        model = copy.deepcopy(one.model)
        model.load_state_dict(state)
        yield epoch, model


def _refuse_other_architectures(opened: Sequence[_Opened]) -> None:
    from torch import nn

    from landscape.objective import Objective
    from landscape.plane import require_same_parameters

    bare = [Objective(one.model, nn.CrossEntropyLoss(), []) for one in opened]  # of their parameters alone
    for one, objective in zip(opened[1:], bare[1:], strict=True):
        require_same_parameters(bare[0], objective, (opened[0].label, one.label))


def _refuse_misfits(model: nn.Module, run: Sequence[State]) -> None:
    from train.checkpoint import misfits

    for state in run:
        if found := misfits(model.state_dict(), dict(state)):
            raise _CommandError(3, f"the run is of another architecture than the checkpoint: {'; '.join(found)}")


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _save_directions(
    plane: Plane, objective: Objective, number: int, look: PlaneOptions, work: _Work, output: _Output
) -> None:
    """Beside the results, one file for all checkpoints, or numbered where each has directions of its own."""
    import torch

    from landscape.plane_options import OF_EACH

    own = f"-{number}" if len(work.opened) > 1 and look.directions in OF_EACH else ""
    path = work.out.with_name(f"{work.out.stem}.directions{own}.pt")
    if path.exists() and not (output.force or output.resume):
        raise _CommandError(6, f"{_shown(path)} exists", "--force replaces it")
    content = {
        f"axis{n}": {name: view.cpu().clone() for name, view in objective.named(axis).items()}
        for n, axis in enumerate(plane.axes)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: torch.save(content, file))


def _explain_filters(look: PlaneOptions, console: _Console, one: _Opened) -> Record:
    """The filters of a model, as a table."""
    from landscape.filters import filter_groups, groups_text
    from landscape.plane import layers_of
    from landscape.plane_options import parsed_output_dims

    objective = _objective(one, _chosen(one, "train"))
    with _as_usage_error():
        groups = filter_groups(objective, output_dims=parsed_output_dims(look.output_dims))
        moving = layers_of(objective, look.layers)
    for group in groups:
        if group["name"] not in moving:
            group |= {"num_filters": 0, "rule": "not among --layers: does not move"}
    console.table(groups_text(groups))
    return {"groups": cast(Json, groups)}


def _described(one: _Opened, split: str) -> Record:
    noise = one.checkpoint.config.label_noise if split == "train" else 0.0
    return {
        "data": one.checkpoint.config.data,
        "split": _SPLITS[split],
        "labels": f"{100 * noise:g} % flipped, as trained" if noise else "clean",
    }


def _with_record(result: Result, one: _Opened, split: str) -> Result:
    own: Record = {"theta_hash": result.checkpoint["hash"]} if "hash" in result.checkpoint else {}
    return dataclasses.replace(
        result, checkpoint={**one.record(), **own}, settings={**result.settings, **_described(one, split)}
    )


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
        raise _CommandError(2, f"{path} is not there{nearest_path(path)}")
    from train import checkpoint as checkpoints

    file = path / "last.pt" if path.is_dir() else path
    checkpoint = checkpoints.read(file)
    model, splits = checkpoints.restore(checkpoint)
    return _Opened(
        file, label, checkpoints.content_hash(model.state_dict()), checkpoint, splits, model.to(device), device
    )


def _chosen(one: _Opened, split: str, examples: int | None = None, seed: int = 0) -> Part:
    """A part of the data, or so many examples of it, drawn by the seed and in the order of the part."""
    from train.data import sample

    part = {"train": one.splits.train, "val": one.splits.validation, "test": one.splits.test}[split]
    if not len(part[1]):
        raise _CommandError(
            2,
            f"{one.path} was trained without a validation part (val_fraction 0)",
            "Training and test part can be measured on",
        )
    if examples is None:
        return part
    if examples > len(part[1]):
        raise click.UsageError(f"--examples is {examples}, but the {_SPLITS[split]} part has {len(part[1])}")
    return sample(part, examples, seed=seed)


def _objective(
    one: _Opened, part: Part, *, batch_norm: BatchNorm = "frozen", batch_size: int = BATCH_SIZE
) -> Objective:
    """The loss over a part of the data; with BatchNorm in train mode the batches are those of training."""
    import torch
    from torch import nn

    from landscape.objective import Objective
    from train.data import Batches

    inputs, targets = part
    size = one.checkpoint.config.batch_size if batch_norm == "train" else batch_size
    batches = Batches(inputs.to(torch.device(one.device)), targets.to(one.device), size)
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
    from landscape.progress import counting
    from train import loop
    from train.distributed import joined
    from train.stopping import signals_noted
    from train.telling import processes_text, progress_text

    if config.device == "cuda":
        _device("cuda")
    with counting(quiet=console.quiet) as count, signals_noted() as stop, joined(config.device) as workers:
        if workers.size > 1:
            console.say(processes_text(config, workers.size))
        if download:
            workers.from_first(lambda: _download(config))

        def progress(at: Progress) -> None:
            count(f"train {config.method}, {progress_text(at)}", "epochs", at.epoch, at.epochs)
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
    lines = ["recipe: what it reproduces, and below it what the paper has"]
    for one in found:
        expected = ", ".join(f"{method} {value}".replace(" ", _TIED) for method, value in one.expected.items())
        lines += console.wrapped(f"{one.name}: {one.reproduces}")
        lines += console.wrapped(expected or "a picture", indent="    ")
    console.table("\n".join(lines).replace(_TIED, " "))
    console.say(
        "Test accuracy in %; of a hessian recipe, an eigenvalue on a log scale. --json has the source of each, "
        "and what the paper states and what we chose"
    )
    return {"recipes": [cast(Json, {**vars(one), "requires": list(one.requires)}) for one in found]}


def _dry_run(config: TrainConfig, out: Path, console: _Console) -> Record:
    from train.plan import plan
    from train.telling import estimated, plan_lines

    with _as_usage_error():
        found = plan(config)
    timing, told = estimated(config, found)
    lines = [*plan_lines(config, found, told), f"would write {_shown(out)}"]
    console.table("\n".join([config.to_toml(), *(part for line in lines for part in console.wrapped(line))]))
    return {
        "settings": cast(Json, config.to_dict()),
        **cast("Record", vars(found)),
        "timing": cast("Json", timing),
        "out": str(out),
    }


# Small things


def _results_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise _CommandError(2, f"{path} is not there{nearest_path(path)}")
        files += sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise _CommandError(3, f"no results in {', '.join(map(str, paths))}", "landscape surface CKPT makes some")
    return list(dict.fromkeys(files))


def _commands_of(files: Sequence[ResultsFile]) -> list[str]:
    """The commands that lead to these results: training first, then measuring, in the order in which they were run."""
    from train.config import words_of

    trained: dict[str, None] = {}
    for run, record in ((file.run, result.checkpoint) for file in files for result in file.results):
        config, places = record.get("config"), run.get("checkpoints")
        if isinstance(config, dict) and isinstance(places, dict):
            folder = Path(str(places.get(str(record.get("hash")), "last.pt"))).parent
            trained[shlex.join(["landscape", "train", *words_of(config), "--out", str(folder)])] = None
    ran = sorted((file.run for file in files if "command" in file.run), key=lambda run: str(run.get("time")))
    return [*trained, *(str(run["command"]) for run in ran)]


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise _CommandError(5, "no CUDA device here", "--device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _run_record(seconds: float) -> Record:
    from landscape.machine import run_record

    size = _processes()[1]
    torchrun = f"torchrun --no-python --nproc-per-node {size} -- " if size > 1 else ""
    return run_record(f"{torchrun}landscape {shlex.join(_words())}", seconds)


def _cost(run: Record) -> str:
    """What a run took."""
    from train.telling import duration

    told = f"{duration(cast(float, run['seconds']))}, peak memory {cast(int, run['peak_bytes']) / 1e9:.2f} GB"
    device = run.get("peak_device_bytes")
    return f"{told}, on the GPU {device / 1e9:.2f} GB" if isinstance(device, int) else told


def _words() -> list[str]:
    """The words of the innermost command, without the flags that change no number."""
    words: list[str] = click.get_current_context().meta["words"]
    return [word for word in words if word not in _CHANGE_NO_NUMBER]


def _content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def _shown(path: Path) -> str:
    return shlex.quote(str(path))


def _check_grid(steps: int, extent: float) -> None:
    from landscape.surface import grid

    with _as_usage_error():
        grid(steps, extent)


@contextlib.contextmanager
def _as_usage_error(of: str = "") -> Iterator[None]:
    """A refused value came from the command line; a subclass of ValueError did not (a damaged file, say)."""
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError:
            raise click.UsageError(f"{of}{': ' if of else ''}{_in_options(str(error))}") from error
        raise


_OPTIONS = (  # of hessian, as arguments in the messages of what it calls
    (r"\bk must", "--top must"),
    (r"\bk = (\d+)", r"--top \1"),
    (r"\b(max_matvecs|tolerance|budget) must", r"--\1 must"),
    ("--max_matvecs", "--max-matvecs"),
    (r"\bengine='([\w-]+)'", r"--engine \1"),
    ("'finite-differences-across-kinks'", "--engine finite-differences-across-kinks"),
)


def _in_options(message: str) -> str:
    """A message of the library in the words of the command line: `which='both'` is --which both."""
    message = re.sub(r"`(\w+)(?:='([\w-]+)')?`", _option_of, message)
    for pattern, option in _OPTIONS:
        message = re.sub(pattern, option, message)
    return message


def _option_of(found: re.Match[str]) -> str:
    return " ".join([f"--{found[1].replace('_', '-')}", *([found[2]] if found[2] else [])])


# Running, and the errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    from train.stopping import terminate

    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as we run
    as_json = "--json" in words
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on a compiler: that there is no GPU
    previous = signal.signal(signal.SIGTERM, terminate)
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
            if type(error).__name__ == "ToldError":
                return 0  # or torchrun would end the one that has something to say, and give our exit code for its own
            if code not in (2, 130, 143):
                click.echo(f"landscape: process {rank}: {message}", err=True)
            return code
        if code in (1, 5, 130, 143) and _is_noted(error) and _KEPT not in message:
            hint = f"{hint}; {_KEPT}" if hint else _KEPT
        if code in (130, 143) and words[0] in ("train", "demo"):
            torchrun = f"torchrun --no-python --nproc-per-node {size} -- " if size > 1 else ""
            hint = f"{torchrun}landscape {shlex.join(_words_to_go_on(words))} goes on"
        with contextlib.suppress(OSError):  # whoever should read it has left, or the disk is full
            if as_json:
                flagged = getattr(error, "results", None)
                document: Record = {"ok": False, "error": {"code": code, "message": message, "hint": hint}}
                _print_json(document if flagged is None else {**document, "command": words[0], "results": flagged})
            click.echo(f"landscape: {message}{f'. {hint}' if hint else ''}", err=True)
        return code
    finally:
        signal.signal(signal.SIGTERM, previous)
        warnings.showwarning = show


def _is_noted(error: BaseException) -> bool:
    """Whether it was noted that something is kept; on Ctrl-C click raises its own error from the one that was."""
    return any(_KEPT in getattr(one, "__notes__", ()) for one in (error, error.__context__))


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """One of ours is for the person who gave the options; a library's is for us."""
    if category.__module__.startswith(("train.", "landscape.")):
        click.echo(f"landscape: warning: {message}", err=True)


_CODES = {  # by name, for their modules import torch
    "SettingsError": (2, "See: landscape train --help"),
    **dict.fromkeys(("CheckpointError", "ResultsError", "JournalError", "DataError", "AbsentDataError"), (3, "")),
    **dict.fromkeys(("SettingsDifferError", "ParametersDifferError", "NotTwiceDifferentiableError"), (3, "")),
    **{"NotAFileError": (2, ""), "OtherSettingsError": (3, ""), "UnwritableError": (5, "")},
    **dict.fromkeys(("NotRepeatableError", "NotConvergedError"), (NUMBER_FAILED, "")),
    **dict.fromkeys(("LibraryError", "ToldError"), (5, "")),
    "CompilerError": (5, "Install a C++ compiler (CXX names it), or go on where the plan was made"),
    **dict.fromkeys(("UnsafeCheckpointError", "UnsafeDataError", "OutputExistsError", "JournalBusyError"), (6, "")),
}


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
    kind = type(error).__name__
    if kind == "Terminated":
        return 143, "terminated", ""
    if kind in _CODES:
        code, hint = _CODES[kind]
        hint = getattr(error, "hint", hint)
        return code, _in_options(message) if kind == "NotTwiceDifferentiableError" else message, hint
    if isinstance(error, FloatingPointError):
        return NUMBER_FAILED, message, ""
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return 5, "out of memory", "use fewer examples or another --device"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 5, f"{where}{error.strerror or message}", "make room" if error.errno in _NO_ROOM else ""
    return 1, f"a bug of ours ({kind}: {message})", "--debug shows where; please report it"


def _print_json(document: Record) -> None:
    click.echo(json.dumps(strict_json(document), indent=1, ensure_ascii=False, allow_nan=False))


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


if __name__ == "__main__":
    sys.exit(main())
