"""Every set of ../shared/data loads with the lines that docs/data.md shows for it, three at most, through a recipe's own path."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT
from tests.lab import make_lab
from tuner.data.layout import read_all
from tuner.data.splits import split

LINE = re.compile(r"^\| `(\w+)` \| (.+?) \| ([\d,]+) \+ ([\d,]+) \| (\w+) \|$", re.MULTILINE)
SECTION = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Public sets")[2].partition("\n## ")[0]
SETS = {name: (cell.replace("`", "").split("<br>"), train, held_out, shape) for name, cell, train, held_out, shape in LINE.findall(SECTION)}

# What a row of a set must be, read by someone who knows the set.
HOLDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "gsm8k": lambda e: [m["role"] for m in e["messages"]] == ["user", "assistant"] and "\n#### " in e["messages"][1]["content"],
    "alpaca_en": lambda e: e["messages"][-1]["role"] == "assistant" and "\n\n" not in e["messages"][0]["content"][:1],
    "dpo_en": lambda e: e["chosen"] != e["rejected"] and e["prompt"][-1]["role"] == "user",
    "kto_en": lambda e: isinstance(e["label"], bool) and e["completion"][0]["role"] == "assistant",
    "toolcall_en": lambda e: e["messages"][-1]["role"] == "assistant" and (not e["tools"] or "name" in e["tools"][0]["function"]),
    "sst2": lambda e: e["label"] in {"0", "1"} and isinstance(e["text"], str),
    "sts2012": lambda e: 0 <= e["score"] <= 5 and bool(e["text"]) and bool(e["text_pair"]),
    "ncbi_disease": lambda e: set(e["tags"]) <= {"O", "B-Disease", "I-Disease"} and len(e["tokens"]) == len(e["tags"]),
    "spoken_digits": lambda e: Path(e["audio"]).name.startswith(e["label"] + "_"),
    "wikipedia_text": lambda e: len(e["text"]) > 100,
    "easy_vqa": lambda e: e["text"] == "what colour is it?" and e["label"] in {"red", "blue"} and Path(e["image"]).is_file(),
}


def test_the_table_has_all_of_them() -> None:
    assert set(SETS) == set(HOLDS)
    assert all(len(lines) <= 3 for lines, *_ in SETS.values())


@pytest.fixture
def sets(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project folder in which the sets are `data/`."""
    if request.node.callspec.params["name"] == "easy_vqa":  # images with questions beside them, as that set has them: made here
        folder = tmp_path / "data" / "easy_vqa"
        folder.mkdir(parents=True)
        lines = ["file_name,question,answer"]
        for index in range(20):
            colour = ("red", "blue")[index % 2]
            Image.new("RGB", (8, 8), colour).save(folder / f"{index}.png")
            lines.append(f"{index}.png,what colour is it?,{colour}")
        (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    else:
        (tmp_path / "data").symlink_to(request.getfixturevalue("shared_data"))
    return tmp_path


@pytest.mark.parametrize("name", HOLDS)
def test_a_set_loads_with_its_lines(sets: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets)
    lines, rows, held_out, shape = SETS[name]
    lab = make_lab(sets / "lab")
    recipe = sets / "lab" / "recipes" / "small.yaml"
    text = "\n  ".join(["data:", *lines])
    recipe.write_text(re.sub(r"^data: .*$", lambda _: text, recipe.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")
    assert yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
    run = lab.run()
    for part, count in zip(split(run), (rows, held_out), strict=True):
        layout, examples, skipped = read_all(part, run.recipe.data, place=part.place)
        assert (layout.shape.value, len(examples), skipped) == (shape, int(count.replace(",", "")), [])
        assert all(map(HOLDS[name], examples))
