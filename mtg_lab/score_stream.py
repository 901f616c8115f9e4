"""Scores kept while they are made, one line a subject, so that an interrupted scoring goes on where it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from mtg_lab.files import write_text
from mtg_lab.protocol import Protocol, save_scores


def stream_file(scores: str | Path) -> Path:
    """Where the rows of ``scores.csv`` are kept until it is whole: ``scores.partial.jsonl`` beside it."""
    return Path(scores).with_suffix(".partial.jsonl")


class ScoreStream:
    """The rows of an unfinished table of scores.

    Args:
        scores: the file that the table will be.
        network: whose scores they are; its weights decide, whatever folder they came from.
        protocol: under which they come about. What is kept of another network or protocol is begun anew.

    Attributes:
        kept: subject to its rows, of a scoring that was interrupted.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, scores: str | Path, network: nn.Module, protocol: Protocol):
        self.scores, self.path = scores, stream_file(scores)
        self.head = json.dumps({"network": _weights(network), "protocol": asdict(protocol)})
        self.kept: dict[str, list[dict[str, Any]]] = dict(self._read())
        # A line that a crash has torn is left out, so that the next one does not hang on to it.
        write_text(self.path, "".join(f"{line}\n" for line in (self.head, *map(json.dumps, self.kept.items()))))

    def add(self, subject: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a subject's rows; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([subject, rows]) + "\n")

    def close(self, table: pd.DataFrame) -> None:
        """Store the table, which is whole, and forget what was kept for it."""
        save_scores(table, self.scores)
        self.path.unlink()

    def _read(self) -> list[tuple[str, list[dict[str, Any]]]]:
        try:
            head, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        found: list[tuple[str, list[dict[str, Any]]]] = []
        if head == self.head:
            for line in lines:
                try:
                    subject, rows = json.loads(line)
                except ValueError:
                    break
                found.append((subject, rows))
        return found


def _weights(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy knows no bf16
    return digest.hexdigest()[:16]
