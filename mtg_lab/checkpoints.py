"""A training that can go on: weights, their average, optimiser, step and history in one file; nothing is unpickled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mtg_lab.errors import InputError
from mtg_lab.files import written_aside

CHECKPOINT = "checkpoint.safetensors"


def write_checkpoint(
    path: Path,
    method: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Write the state of a training between two steps, aside first; a frozen teacher is left out."""
    tensors = {f"method.{k}": v for k, v in method.state_dict().items() if not k.startswith("teacher.")}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    facts = {"step": str(step), "history": json.dumps(list(history))}
    with written_aside(path) as aside:
        aside.write_bytes(save(copies(tensors), metadata=facts))  # save_file hides what the disk says


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: each with memory of its own, also a layer under two names, as in DynUNet."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def read_checkpoint(
    path: Path, method: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, with_teacher: bool
) -> tuple[int, list[dict[str, float]]]:
    """Bring method, average and optimiser back to what :func:`write_checkpoint` wrote; returns step and history.

    Args:
        path: of the file.
        method, average, optimizer: of the same recipe.
        with_teacher: whether the method holds a frozen teacher, which the file does not.

    Raises:
        InputError: the file is damaged or of another training.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            facts = stored.metadata()
        tensors = load_file(path)
        method.load_state_dict(_below(tensors, "method."), strict=not with_teacher)
        average.load_state_dict(_below(tensors, "average."))
        state = optimizer.state_dict()
        state["state"] = {}
        for key, value in _below(tensors, "optimizer.").items():
            index, _, name = key.partition(".")
            state["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(state)
        return int(facts["step"]), json.loads(facts["history"])
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be resumed ({str(error).splitlines()[0]}); delete this file to train from the start"
        ) from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
