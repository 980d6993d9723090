"""Held-out rows kept beside what was measured on them: `keep(rows, folder)`, `kept(folder)`. A later run need not read all rows again."""

from __future__ import annotations

import json
from pathlib import Path

from tuner.data.load import Rows
from tuner.runs import write_text
from tuner.schema.data import Format

NAME = "held_out.jsonl"


def keep(rows: Rows, folder: Path) -> list[Path]:
    """Write the rows with their places; none where JSON would not give them back as they are (images, dates)."""
    lines = []
    for index, row in enumerate(rows):
        name, number, form = rows.origin(index)
        entry = {"source": name, "number": number, "format": form and form.value, "part": rows.part[index], "row": row}
        try:
            line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
            if json.loads(line) != entry:
                return []
        except (TypeError, ValueError):
            return []
        lines.append(line + "\n")
    path = folder / NAME
    write_text(path, "".join(lines))
    return [path]


def kept(folder: Path) -> Rows | None:
    """The rows that were kept in a folder."""
    path = folder / NAME
    if not path.is_file():
        return None
    rows = Rows()
    with path.open(encoding="utf-8") as stream:  # not splitlines(): a text may hold U+2028
        for line in stream:
            entry = json.loads(line)
            form = Format(entry["format"]) if entry["format"] else None
            rows.append(entry["row"], (entry["source"], entry["number"], form), part=entry["part"])
    return rows
