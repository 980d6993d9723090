"""Defaults that hang on the task and on what is trained: `suited(recipe)` -> {"trainer.learning_rate": 5e-05} of a whole BERT.

Anything that a recipe says of these keys comes before. Rates: of a low-rank adapter about ten times those of all weights
(https://thinkingmachines.ai/blog/lora/); BERT's for encoders (https://arxiv.org/abs/1810.04805), TRL's where answers are compared.
"""

from __future__ import annotations

from typing import Any

from tuner.schema.adapter import Full
from tuner.schema.model import Start
from tuner.schema.recipe import Recipe

# Peak learning rates by task: of an adapter, and of all weights.
RATES: dict[tuple[str, ...], tuple[float, float]] = {
    ("sft", "distil"): (2e-4, 2e-5),
    ("pretrain",): (2e-4, 1e-4),
    ("dpo", "simpo", "cpo", "orpo", "kto"): (5e-5, 1e-6),
    ("reward",): (1e-4, 1e-5),
    ("grpo", "rloo", "online_dpo"): (1e-5, 1e-6),
    ("classify", "tag", "qa", "fill_mask", "embed", "rerank", "classify_image", "classify_audio", "segment", "detect"): (5e-4, 5e-5),
    ("seq2seq", "translate", "summarize"): (1e-3, 1e-4),
    ("transcribe",): (1e-3, 1e-5),
    ("vlm", "diffusion"): (1e-4, 1e-5),
}
FROM_NOTHING = 5e-4  # weights that begin by chance have nothing to lose
METRICS = {"translate": ["bleu", "chrf"], "summarize": ["rouge"]}


def suited(recipe: Recipe) -> dict[str, Any]:
    """What suits the recipe's task and adapter, by key."""
    rates = {task: pair for tasks, pair in RATES.items() for task in tasks}.get(recipe.task.kind)
    found: dict[str, Any] = {}
    if rates:
        whole = isinstance(recipe.adapter, Full)
        found["trainer.learning_rate"] = FROM_NOTHING if recipe.model.init is Start.random else rates[whole]
    if recipe.task.kind in METRICS and recipe.eval.generate:
        found["eval.metrics"] = METRICS[recipe.task.kind]
    return found
