"""Training checkpoints: everything that a run depends on in one file, so that a resumed run equals one that went on."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open

from katachi.errors import CheckpointError
from katachi.io.safetensors import load_safetensors, save_safetensors
from katachi.tensor.random import Generator, default_generator
from katachi.tensor.tensor import Tensor

FORMAT = "katachi-checkpoint-1"


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Any,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    generator: Generator = default_generator,
    step: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the state of a run: weights, the optimiser's and the schedule's state, random draws taken, where the data
    stands, the step, and whatever JSON can hold in `extra`. The old file stays whole until the new one is. Raises
    CheckpointError for what JSON cannot hold, OSError where nothing can be written.

    >>> import tempfile, katachi as kt
    >>> path, model = tempfile.mkdtemp() + "/run.safetensors", kt.nn.Linear(2, 1)
    >>> save_checkpoint(path, model=model, step=3)
    >>> load_checkpoint(path, model=model)["step"]
    3
    """
    tensors: dict[str, Any] = {f"model.{k}": v for k, v in model.state_dict().items()}
    note: dict[str, Any] = {"step": step, "extra": dict(extra or {})}
    note["generator"] = {"seed": generator.seed, "calls": generator.calls}
    if optimizer is not None:
        state = optimizer.state_dict()
        note["optimizer"] = {"param_groups": state["param_groups"], "state": {}}
        for place, values in state["state"].items():
            note["optimizer"]["state"][place] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
            tensors |= {f"optimizer.{place}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
    for name, part in (("scheduler", scheduler), ("loader", loader)):
        if part is not None:
            note[name] = part.state_dict()
    try:
        text = json.dumps(note)
    except TypeError as error:
        raise CheckpointError(
            f"save_checkpoint: {os.fspath(path)}: a state or extra is not for JSON: {error}"
        ) from None
    save_safetensors(path, tensors, {"format": FORMAT, "note": text, "crc32": _sum(text, tensors)})


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Any,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    generator: Generator = default_generator,
) -> dict[str, Any]:
    """Take up what `save_checkpoint` wrote, all or nothing; returns `{"step": ..., "extra": ...}`.

    Raises CheckpointError for another kind of file, for a damaged one (a single bit suffices), and for one without a
    part that is asked for, OSError without a file.
    """
    tensors = load_safetensors(path)
    note = _note(path, tensors)
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler), ("loader", loader)):
        if part is not None and name not in note:
            raise CheckpointError(f"load_checkpoint: {os.fspath(path)} has no state of the {name}")
    try:
        return _take_up(note, tensors, model, optimizer, scheduler, loader, generator)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"load_checkpoint: {os.fspath(path)} does not fit: {error!r}") from None


def _take_up(
    note: Any, tensors: Mapping[str, Any], model: Any, optimizer: Any, scheduler: Any, loader: Any, generator: Generator
) -> dict[str, Any]:
    parts = [(model, _under("model.", tensors))]
    if optimizer is not None:
        saved = note["optimizer"]
        state = {
            int(place): {**values, **_under(f"optimizer.{place}.", tensors)} for place, values in saved["state"].items()
        }
        for group in saved["param_groups"]:  # JSON knows no tuples
            group.update({k: tuple(v) for k, v in group.items() if k != "params" and isinstance(v, list)})
        parts.append((optimizer, {"state": state, "param_groups": saved["param_groups"]}))
    parts += [(p, note[name]) for name, p in (("scheduler", scheduler), ("loader", loader)) if p is not None]
    seed, calls = note["generator"]["seed"], note["generator"]["calls"]
    before = [part.state_dict() for part, _ in parts]
    try:
        for part, state in parts:
            part.load_state_dict(state)
    except BaseException:
        for (part, _), was in zip(parts, before, strict=True):
            part.load_state_dict(was)
        raise
    generator.seed, generator.calls = seed, calls
    return {"step": note["step"], "extra": note["extra"]}


def _sum(note: str, tensors: Mapping[str, Any]) -> str:
    """A checksum of all that the file holds: safetensors has none, and a flipped bit would otherwise go unnoticed."""
    total = zlib.crc32(note.encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.tobytes(), total)
    return f"{total:08x}"


def _note(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
        note = json.loads(metadata.get("note", "null")) if metadata.get("format") == FORMAT else None
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"load_checkpoint: {os.fspath(path)}: {error}") from None
    if not isinstance(note, dict) or not {"step", "extra", "generator"} <= note.keys():
        raise CheckpointError(
            f"load_checkpoint: {os.fspath(path)} is not a training checkpoint; load_safetensors reads weights"
        )
    if metadata.get("crc32") != _sum(metadata["note"], tensors):
        raise CheckpointError(f"load_checkpoint: {os.fspath(path)} is damaged: its checksum does not fit")
    return note


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
