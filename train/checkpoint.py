"""A checkpoint: all that a run needs to go on, and all that a reader needs to rebuild its model and data.

The file is torch.save of tensors and primitives, nothing else, and is read with weights_only=True, never otherwise:
it cannot name code. It holds no dates or paths, and no times but the seconds
of an epoch that was stopped within, so equal runs write equal content. Before torch sees a file its
first bytes, its zip structure and the checksum of every entry are checked, for torch checks none of them.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import io
import os
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.data import Splits, load, splits_hash
from train.data import content_hash as tensors_hash
from train.distributed import workers
from train.models import build, library_of

FORMAT = 1
_NUM_NAMED = 5

State = dict[str, Any]  # nested dictionaries and lists of tensors and primitives
Metrics = dict[str, int | float | None]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that holds something else than was expected."""


class UnsafeCheckpointError(CheckpointError):
    """A file whose reading would run code that it names."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """A run after `epoch` whole epochs and `step` steps; epoch 0 is the initialisation.

    `optimizer` is the state of the method, with the base optimizer's and the average. `schedule` has `so_far`
    where the last steps are of an epoch that is not whole; `metrics` are of the last whole one. `data` names the data,
    its sizes, its content hash and the changed training labels. `versions` says what wrote it.
    """

    config: TrainConfig
    model: dict[str, Tensor]
    optimizer: State
    schedule: State
    rng: dict[str, Tensor]
    data: State
    epoch: int
    step: int
    metrics: Metrics
    versions: dict[str, str]


_KEYS = ("format", *(item.name for item in fields(Checkpoint)))


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint atomically: the file is the old one or the new one, never half of it."""
    values = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    content = {"format": FORMAT, **values, "config": checkpoint.config.to_dict()}
    # through memory: given a path, torch writes the file's name into the archive; on a full disk it hides the reason
    packed = io.BytesIO()
    torch.save(content, packed)
    write_atomically(Path(path), lambda file: file.write(packed.getbuffer()))


def read(path: str | Path, *, allow_nonfinite: bool = False) -> Checkpoint:
    """The checkpoint in a file, on the CPU; for a run folder, its last.pt.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If the file names code. Nothing of it is run.
        CheckpointError: If the file is damaged, is something else, or holds weights that are not finite.
    """
    path = _file(Path(path))
    check_archive(path)
    checkpoint = _checkpoint(path, load_plain(path))
    if not allow_nonfinite:
        _check_finite(path, checkpoint.model)
    return checkpoint


def restore(checkpoint: Checkpoint) -> tuple[nn.Module, Splits]:
    """The model of a checkpoint, in eval mode, and the data that it was trained on.

    Raises:
        CheckpointError: If the weights do not fit the model, or the data is not what it was.
        LibraryError: If the model is torchvision's or timm's, and the library is missing or does not fit torch.
    """
    config = checkpoint.config
    splits = load(config)
    if splits_hash(splits) != checkpoint.data.get("hash"):
        raise CheckpointError(
            f"the data {config.data!r} of this machine is not what the checkpoint was trained on: its content hash "
            f"differs. The checkpoint was written with {_listed(checkpoint.versions)}"
        )
    in_channels = splits.train[0].shape[1]
    try:
        model = build(config.model, in_channels=in_channels, num_classes=splits.num_classes, seed=config.seed)
    except ValueError as error:
        raise CheckpointError(f"the model {config.model!r} of the checkpoint cannot be built: {error}") from error
    problems = misfits(model.state_dict(), checkpoint.model)
    if problems:
        raise CheckpointError(f"the weights do not fit the model {config.model!r}: {'; '.join(problems)}")
    model.load_state_dict(checkpoint.model, strict=True)
    return model.eval(), splits


def content_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of a model's tensors, whatever their order and device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}={tensors_hash(state[name])}\n".encode())
    return digest.hexdigest()


def describe_data(config: TrainConfig, splits: Splits) -> State:
    """What a checkpoint keeps of its data: name, sizes, classes, content hash, changed training labels."""
    return {
        "name": config.data,
        "num_train": len(splits.train[1]),
        "num_validation": len(splits.validation[1]),
        "num_test": len(splits.test[1]),
        "num_classes": splits.num_classes,
        "classes": list(splits.classes),
        "hash": splits_hash(splits),
        "noise_indices": splits.noise_indices,
    }


def versions_here(config: TrainConfig) -> dict[str, str]:
    """Versions of the libraries, and the number of threads and of processes, that decide a run's last bits."""
    library = library_of(config.model)
    names = ("torch", "numpy", "scikit-learn", *([library] if library else []))
    versions = {name: str(importlib.metadata.version(name)) for name in names}
    several = {"processes": str(workers().size)} if workers().size > 1 else {}
    return versions | {"threads": str(torch.get_num_threads())} | several


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Fill a temporary file in the same folder, then put it in place; the old file stays until then.

    Raises:
        OSError: With the name of the file: a full disk does not say which one it stopped.
    """
    name, path = path, Path(os.path.realpath(path))  # through a link, to the file itself
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        if not _alive(stale.name.rsplit("-", 1)[-1]):
            stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:  # one without a number has words of its own
            error.filename = str(name)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _file(path: Path) -> Path:
    if path.is_dir():
        if not (path / "last.pt").is_file():
            raise CheckpointError(f"{path} is a folder without last.pt: give a checkpoint file, or the folder of a run")
        return path / "last.pt"
    if not path.exists():
        present = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(path.name, present, n=3)
        hint = f". Did you mean {' or '.join(str(path.parent / name) for name in nearest)}?" if nearest else ""
        raise FileNotFoundError(f"there is no file {path}{hint}")
    return path


def check_archive(path: Path) -> None:
    """Refuse a file that is no zip of torch.save, is damaged, or names code.

    Raises:
        UnsafeCheckpointError: If the file names code. Nothing of it is run.
        CheckpointError: If the file is damaged, or is something else.
    """
    _check_first_bytes(path)
    _check_entries(path)
    _check_safe(path)


def _check_first_bytes(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise CheckpointError(f"{path} is an empty file (interrupted download?)")
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(b"\x80"):
        _refuse_bare_pickle(path)
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is an HTML page, not a checkpoint (a download link that led to a web page?)")
    if start.startswith((b"{", b"[")):
        raise CheckpointError(f"{path} looks like JSON, not a checkpoint")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the checkpoint itself: fetch it with git lfs pull")
    if _is_text(head):
        raise CheckpointError(f"{path} is a text file, not a checkpoint")
    raise CheckpointError(f"{path} is not a checkpoint: it begins with {head[:4].hex(' ')}, not with a zip's PK")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start > len(head) - 4 else "\0"  # a character cut at the end
    return all(character.isprintable() or character.isspace() for character in text)


def _refuse_bare_pickle(path: Path) -> None:
    names: list[str] = []
    strings: list[str] = []
    with path.open("rb") as file, contextlib.suppress(ValueError, EOFError):
        for opcode, argument, _ in pickletools.genops(file):  # reads the opcodes, runs none
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    if names:
        raise UnsafeCheckpointError(f"{path} is a bare pickle that names code ({', '.join(names)}): it was not opened")
    raise CheckpointError(f"{path} is a bare pickle, not a landscape checkpoint")


def _check_entries(path: Path) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.file_size]
            # all zero: written without checksums, as torch can be told to
            bad = archive.testzip() if any(entry.CRC for entry in entries) else None
            # torch's reader takes an entry marked as a folder for an empty one, and leaves its tensor unfilled
            odd = [entry.filename for entry in entries if entry.external_attr & 0x10 or entry.is_dir()]
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        if not _has_table_of_contents(path):
            raise CheckpointError(
                f"{path} is truncated: it has {size:,} bytes, and a zip's table of contents, which comes last, is "
                "missing (interrupted copy or download?)"
            ) from error
        raise CheckpointError(f"{path} is corrupted ({error}): copy or download it again") from error
    except (NotImplementedError, RuntimeError, EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise CheckpointError(f"{path} is corrupted ({error}): copy or download it again") from error
    if bad is not None:
        raise CheckpointError(
            f"{path} is corrupted: the checksum of its entry {bad} is wrong; copy or download it again"
        )
    if odd:
        raise CheckpointError(
            f"{path} is corrupted: its entry {odd[0]} is marked as a folder; copy or download it again"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript archive, which holds code; a checkpoint holds weights")
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip archive, but not a checkpoint")


def _has_table_of_contents(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 66_000))  # its record ends the file, with a comment of 65,535 at most
        return b"PK\x05\x06" in file.read()


def _check_safe(path: Path) -> None:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # whatever a damaged pickle can make its reader raise
        raise CheckpointError(f"{path} cannot be read: its table of contents is damaged ({error})") from error
    if names:
        raise _named_code(path, names)


def _named_code(path: Path, names: list[str]) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path} names code ({', '.join(sorted(names))}), which would run on loading: it was not opened. "
        "A checkpoint holds tensors and plain values only"
    )


def load_plain(path: Path) -> object:
    """The tensors and primitives of a file of torch.save.

    Raises:
        UnsafeCheckpointError: If the file names code. Nothing of it is run.
        CheckpointError: If torch cannot read the file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own advice is to load unsafely; its first line says what happened
        code = re.search(r"GLOBAL ([\w.]+)", str(error))  # in a file from before torch wrote zips
        if code:
            raise _named_code(path, [code[1]]) from error
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason})") from error


def _checkpoint(path: Path, content: object) -> Checkpoint:
    if not isinstance(content, dict) or "format" not in content or "config" not in content:
        raise CheckpointError(f"{path} holds {_kind(content)} but not a landscape run: train one with landscape train")
    if type(content["format"]) is not int or content["format"] < 1:
        raise CheckpointError(f"{path} has no format that a landscape ever wrote: {content['format']!r}")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']}, made by a newer landscape; this one reads {FORMAT}: upgrade"
        )
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise CheckpointError(f"{path} is not a whole checkpoint: it lacks {', '.join(missing)}")
    kinds = {"epoch": int, "step": int}
    wrong = [key for key in _KEYS if key != "format" and type(content[key]) is not kinds.get(key, dict)]
    wrong += [f"{key}[{name!r}]" for key in ("model", "rng") if key not in wrong for name in _not_tensors(content[key])]
    if wrong:
        raise CheckpointError(f"{path} is not a whole checkpoint: of an unexpected type are {', '.join(wrong)}")
    try:
        values = {**content, "config": TrainConfig.from_dict(content["config"])}
    except ValueError as error:
        raise CheckpointError(f"{path} holds settings that cannot be used: {error}") from error
    if not 0 <= content["epoch"] <= values["config"].epochs or content["step"] < 0:
        raise CheckpointError(
            f"{path} is not a whole checkpoint: epoch {content['epoch']} of {values['config'].epochs}, "
            f"step {content['step']}"
        )
    return Checkpoint(**{item.name: values[item.name] for item in fields(Checkpoint)})


def _not_tensors(state: dict[Any, Any]) -> list[Any]:
    """Names in a state whose value is no dense tensor on the CPU, or that are no text."""

    def dense(value: object) -> bool:
        if not isinstance(value, Tensor) or value.is_quantized:
            return False
        return value.layout == torch.strided and value.device.type == "cpu"

    return [name for name, value in state.items() if not (isinstance(name, str) and dense(value))]


def _kind(content: object) -> str:
    values = list(content.values()) if isinstance(content, dict) else [content]
    nested = any(isinstance(item, Tensor) for value in values if isinstance(value, dict) for item in value.values())
    return "weights" if nested or any(isinstance(value, Tensor) for value in values) else "something"


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    bad = nonfinite_names(state)
    if bad:
        raise CheckpointError(f"{path} holds weights that are not finite: {', '.join(bad)}. The run diverged")


def nonfinite_names(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Which tensors are missing, unexpected or of a wrong shape, a phrase for each kind that occurs."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    present = [(name, tensor, found[name]) for name, tensor in expected.items() if name in found]
    shapes = [f"{name} is {tuple(f.shape)}, expected {tuple(t.shape)}" for name, t, f in present if f.shape != t.shape]
    dtypes = [f"{name} is {f.dtype}, expected {t.dtype}" for name, t, f in present if f.dtype != t.dtype]
    lists = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes, "wrong dtype": dtypes}
    return [f"{label} {_first(names)}" for label, names in lists.items() if names]


def _first(names: list[str]) -> str:
    """Another network differs in hundreds of names."""
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
