"""The rules of `checks.py` that are about rewards: which there are, what each needs, and what learns from them cannot have."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tuner.errors import nearest
from tuner.registry import kinds
from tuner.schema.adapter import MOVES_THE_BASE, Full, Lora
from tuner.schema.beyond_lora import Virtual
from tuner.schema.debug import Fast
from tuner.schema.hardware import DeepSpeed, Fsdp
from tuner.schema.recipe import Recipe
from tuner.schema.rewarded import NEEDS, REWARDS, OnlineDpo, Rewarded
from tuner.unread_rules import ROWS, Finding, useless


def rewarding(recipe: Recipe) -> Iterator[Finding]:
    """Rewards are known and have what they need; what learns from its own answers reads nothing of others, and is sampled whole."""
    task = recipe.task
    if not isinstance(task, Rewarded):
        return
    if not task.rewards:
        yield "task.rewards", f"`task={task.kind}` learns from rewards, and none is named", "`task.rewards={numeric: 1}`, say"
    for name in task.rewards:
        if name not in REWARDS and name not in kinds("reward"):
            guess = nearest(name, [*REWARDS, *kinds("reward")])
            known = f"rewards: {', '.join(REWARDS)}; one of your own comes with `--extensions FILE --trust`"
            yield "task.rewards", f"unknown reward `{name}`", f"did you mean `{guess}`?" if guess else known
        for key in NEEDS.get(name, ()):
            if not getattr(task, key):
                yield f"task.{key}", f"the reward `{name}` needs `task.{key}`", f"see `tune explain task.{key}`"
    for key in sorted({key for name, keys in NEEDS.items() if name not in task.rewards for key in keys if getattr(task, key)}):
        yield f"task.{key}", f"no reward reads `task.{key}`", "remove it, or name the reward in `task.rewards`"
    if task.pattern and not _compiles(task.pattern):
        yield "task.pattern", f"`task.pattern` is no regular expression: {task.pattern!r}", "mend it"
    why = "it samples its own answers"
    fixes = {"eval.max_new_tokens": "set `task.max_completion_length`"}
    keys = [*ROWS, "trainer.label_smoothing_factor", "trainer.eval_steps", "eval.metrics", "eval.generate", "debug"]
    keys += [] if isinstance(recipe.debug, Fast) else ["eval.max_new_tokens"]  # it sets both
    yield from useless(recipe, why, *keys, fixes=fixes)
    yield from _compared(recipe, task)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _compared(recipe: Recipe, task: Rewarded) -> Iterator[Finding]:
    """What the model said before training is had by switching the adapter off; and one process holds the model that is sampled."""
    adapter = recipe.adapter
    if getattr(task, "beta", 0):
        moved = isinstance(adapter, Lora) and adapter.init_lora_weights in MOVES_THE_BASE
        if isinstance(adapter, Full | Virtual) or moved:
            fix = "use `adapter=lora`" + ("" if isinstance(task, OnlineDpo) else ", or `task.beta=0`")
            yield "task.beta", f"`task.beta` compares with the base below an adapter, which {adapter.label} does not keep", fix
    if isinstance(recipe.hardware, Fsdp | DeepSpeed):
        yield "hardware", f"`task={task.kind}` samples from the model it trains, which `{recipe.hardware.kind}` cuts", "use `hardware=ddp`"


RULES = (rewarding,)
