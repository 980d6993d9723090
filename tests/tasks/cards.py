"""What a stranger gets who takes a published folder and runs its card's own lines: `cards.printed(run_folder, {"photo.jpg": …})`."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from tuner.plan import read_plan


def code(folder: Path) -> str:
    """The lines that load a published model."""
    return (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def printed(folder: Path, said: Mapping[str, str] = MappingProxyType({})) -> str:
    """What these lines print over a copy of what was published, where the base lies at hand; `said`: other words in them."""
    base = Path(read_plan(folder / "plan.json").load_recipe().model.id)
    with TemporaryDirectory() as place:
        published = Path(shutil.copytree(folder / "published", Path(place) / "published"))
        config = published / "adapter_config.json"
        if config.is_file():  # as its comment asks of who has the base somewhere else
            values = json.loads(config.read_text(encoding="utf-8"))
            config.unlink()
            config.write_text(json.dumps(values | {"base_model_name_or_path": str(base)}), encoding="utf-8")
        lines = code(published).replace("PATH/TO/THIS/FOLDER", str(published)).replace(f'"{base.name}"', f'"{base}"')
        for there, here in said.items():
            assert there in lines
            lines = lines.replace(there, here)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.chdir(place):
            exec(compile(lines, "card", "exec"), {})
        return out.getvalue().strip()
