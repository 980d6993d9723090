"""What a diffusion model paints, before and after: `paint(…)` -> images, `keep(…)` writes them, `compare(…)` a grid of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tuner.data.images import thumbnail
from tuner.runs import write_json

SHOWN = 384  # pixels of a sample's longer side in the report
GRID = "samples.png"


@torch.inference_mode()
def paint(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    side: int,
    steps: int,
    guidance: float | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Image.Image]:
    """An image of each prompt; each begins with the noise of its own number, whoever paints."""
    options = {} if guidance is None else {"guidance_scale": guidance}
    found = []
    for index, prompt in enumerate(prompts):
        chance = torch.Generator().manual_seed(index)
        made = pipeline(prompt=prompt, num_inference_steps=steps, height=side, width=side, generator=chance, **options)
        found.append(made.images[0])
        tick(index + 1)
    return found


def keep(folder: Path, painted: Sequence[Image.Image]) -> None:
    """Write samples as `sample-0.png` …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(painted):
        image.save(folder / f"sample-{index}.png")


def compare(prompts: Sequence[str], base: Path, tuned: Path, grid: Path) -> None:
    """Write what both painted as one image, the base above and the tuned model below; and small ones of them for the report."""
    both = [[Image.open(folder / f"sample-{index}.png").convert("RGB") for index in range(len(prompts))] for folder in (base, tuned)]
    width, height = both[0][0].size
    sheet = Image.new("RGB", (width * len(prompts), height * 2))
    for line, images in enumerate(both):
        for column, image in enumerate(images):
            sheet.paste(image, (column * width, line * height))
    sheet.save(grid)
    lines = [
        {"prompt": prompt, "base": thumbnail(one, SHOWN), "tuned": thumbnail(other, SHOWN)}
        for prompt, one, other in zip(prompts, *both, strict=True)
    ]
    write_json(tuned / "samples.json", lines)
