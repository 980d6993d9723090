"""What is learnt of a stream while it is trained on, for a later resume: `Journal(path).read().known` -> samples of each block."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Turn = tuple[int, int, int]  # source, epoch, turn of the part
Rest = list[list[int]]  # token ids of texts, or parts of them, that filled no row yet


@dataclass
class Journal:
    """Samples of each block, by (source, epoch, turn of the part): what is learnt on the way, for a later resume.

    What a block left stays in the file: `places` says where each block's line begins.
    """

    path: Path
    known: dict[Turn, list[int]] = field(default_factory=dict)
    places: dict[Turn, list[int]] = field(default_factory=dict)
    whole: set[Turn] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    torn: bool = False

    def read(self) -> Journal:
        """What an earlier process has noted; a line torn by a kill is left out."""
        place = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else ():
            self.torn = not line.endswith(b"\n")
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                entry = json.loads(line)
                self._take(tuple(entry["part"]), entry, place)
            place += len(line)
        return self

    def note(self, part: Turn, **entry: Any) -> None:
        """Note a block (its `samples`, and the `rest` that it left) or the end of a part (`whole`)."""
        with self.path.open("ab") as stream:
            stream.write(b"\n" if self.torn else b"")
            self.torn = False
            self._take(part, entry, stream.tell())
            stream.write(json.dumps({"part": part, **entry}, ensure_ascii=False).encode() + b"\n")

    def rest(self, part: Turn, block: int) -> Rest:
        """What a known block left to the next one."""
        with self.path.open("rb") as stream:
            stream.seek(self.places[part][block])
            found: Rest = json.loads(stream.readline()).get("rest", [])
        return found

    def _take(self, part: Turn, entry: dict[str, Any], place: int) -> None:
        known = self.known.setdefault(part, [])
        if entry.get("whole"):
            self.whole.add(part)
        elif entry["block"] == len(known):
            known.append(entry["samples"])
            self.places.setdefault(part, []).append(place)
            self.skipped += entry.get("skipped", [])
