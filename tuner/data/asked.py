"""Prompts whose answers are yet to be sampled, on disk: `write(folder, prompts)`, then `PromptRows(folder)[0]["asked"]` -> an Asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tuner.data.turns import Message
from tuner.runs import write_text


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt: its messages, what the right answer is ("" where nobody says), and its tokens."""

    prompt: list[Message]
    tools: list[Any] | None
    reference: str
    ids: list[int]


def write(folder: Path, prompts: Sequence[Asked]) -> None:
    """Write the prompts; the caller marks the folder as done."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "prompts.json", "".join(json.dumps(asdict(asked), ensure_ascii=True) + "\n" for asked in prompts))
    np.save(folder / "prompt_ends.npy", np.cumsum([len(asked.ids) for asked in prompts], dtype=np.int64))


class PromptRows(Dataset[dict[str, Any]]):
    """Prepared prompts. An item holds one, as `asked`; lines are read when they are asked for."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.lines = (folder / "prompts.json").read_text(encoding="ascii").splitlines()
        self.ends = np.load(folder / "prompt_ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"asked": Asked(**json.loads(self.lines[index]))}
