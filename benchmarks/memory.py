"""Peak memory of real trainings beside what `tune plan memory` says: `scripts/bench memory`, each setting in a fresh process on the CPU."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.runner import Job, run
from tuner.checks import RULES
from tuner.estimate import shape
from tuner.memory import Load, need
from tuner.plan import make_plan
from tuner.schema.compose import compose

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "outputs" / "benchmarks"
# adapter, micro-batch, tokens a row, activation checkpointing, padding-free
SETTINGS: list[tuple[str, int, int, bool, bool]] = [
    ("lora", 1, 256, False, True),
    ("lora", 4, 512, False, True),
    ("lora", 4, 512, True, True),
    ("lora", 2, 1024, False, True),
    ("lora", 8, 256, False, False),
    ("qlora", 4, 512, False, True),
    ("full", 1, 512, False, True),
    ("full", 4, 256, True, True),
]


def overrides(setting: tuple[str, int, int, bool, bool], folder: Path) -> list[str]:
    """The recipe values of a setting: two steps of one micro-batch of rows that are all cut at the same length."""
    adapter, micro, length, recompute, padding_free = setting
    return [
        f"adapter={adapter}",
        "model=smollm2-135m",
        "data=custom",
        f"data.path={folder / 'rows.jsonl'}",
        "data.eval_fraction=0",
        "eval=none",
        "hub=none",
        "hardware=cpu",
        f"trainer.batch_size={micro}",
        f"hardware.micro_batch_size={micro}",
        "trainer.max_steps=2",
        "trainer.save_steps=0",
        f"task.max_length={length}",
        f"trainer.activation_checkpointing={str(recompute).lower()}",
        f"trainer.padding_free={'always' if padding_free else 'never'}",
        f"output_dir={folder / 'outputs'}",
    ]


def write_rows(path: Path) -> None:
    """Conversations longer than any length measured; every fourth token or so is the question's."""
    words = "the river runs past a mill where flour is ground for bread that the town eats each morning".split()  # noqa: SIM905
    with path.open("w", encoding="utf-8") as stream:
        for index in range(64):
            question = " ".join(words[(index + n) % len(words)] for n in range(60))
            answer = " ".join(words[(index * 3 + n * 7) % len(words)] for n in range(1400 if index else 20))  # all cut would be a gate
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            stream.write(json.dumps({"messages": messages}) + "\n")


def measure(setting: tuple[str, int, int, bool, bool], folder: Path) -> int:
    """Peak bytes of the process that trains, in which nothing else is done."""
    plan = make_plan(compose(str(folder / "recipe.yaml"), overrides(setting, folder), rules=RULES))
    path = folder / "plan.json"
    plan.write(path)
    worker = [sys.executable, "-m", "tuner.worker", str(path), "--only"]
    run(Job(argv=[*worker, "prepare"]))
    return run(Job(argv=[*worker, "train"])).peak_rss_bytes


def predict(setting: tuple[str, int, int, bool, bool], folder: Path) -> int:
    """What the plan says of a setting."""
    plan = make_plan(compose(str(folder / "recipe.yaml"), overrides(setting, folder), rules=RULES))
    recipe, dimensions = plan.load_recipe(), shape(plan)
    found = need(recipe, dimensions, Load(rows=setting[1], length=setting[2])) if dimensions else None
    assert found is not None
    return found.total


def report(repeats: int) -> None:
    """A table of predicted, measured and their ratio; the lines as JSON in outputs/benchmarks/memory.jsonl."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = ("adapter", "micro_batch", "tokens", "recompute", "padding_free")
    print(("{:>13}" * 8).format(*names, "predicted GB", "measured GB", "ratio"))
    with tempfile.TemporaryDirectory(prefix="tune-bench-") as name, (RESULTS / "memory.jsonl").open("w") as lines:
        folder = Path(name)
        write_rows(folder / "rows.jsonl")
        (folder / "recipe.yaml").write_text("# memory — measured\nname: memory\n")
        for setting in SETTINGS:
            peak, predicted = max(measure(setting, folder) for _ in range(repeats)), predict(setting, folder)
            print(("{!s:>13}" * 5 + "{:>13.2f}" * 3).format(*setting, predicted / 1e9, peak / 1e9, predicted / peak), flush=True)
            found = dict(zip(names, setting, strict=True)) | {"predicted": predicted, "measured": peak}
            lines.write(json.dumps(found) + "\n")
