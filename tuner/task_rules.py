"""The rules of `checks.py` that are about the task: what rows with labels can be trained with, and what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.schema.adapter import Full, Init, Lora
from tuner.schema.audio import ClassifyAudio
from tuner.schema.beyond_lora import Virtual
from tuner.schema.data import Overlong
from tuner.schema.debug import Noise
from tuner.schema.distil import Distil
from tuner.schema.hardware import DeepSpeed
from tuner.schema.model import Start
from tuner.schema.passages import Qa
from tuner.schema.preferences import Dpo, Kto, Paired, Preference, Reward
from tuner.schema.recipe import Recipe
from tuner.schema.seq2seq import Seq2Seq
from tuner.schema.task import Classes, Embed, Encoder, Labelled, Pretrain, Problem, Sft, Tag
from tuner.schema.trainer import Choice
from tuner.schema.vision import Vlm
from tuner.unread_rules import CHAT, ROWS, read_by_others, useless

Finding = tuple[str, str, str]
NEXT_TOKEN = ("sft", "pretrain")


def packing(recipe: Recipe) -> Iterator[Finding]:
    """Packed rows need attention that knows where each conversation ends."""
    if isinstance(recipe.task, Sft) and recipe.task.packing and recipe.trainer.padding_free is Choice.never:
        yield "task.packing", "`task.packing` contradicts `trainer.padding_free=never`", "remove one of the two"


def labels(recipe: Recipe) -> Iterator[Finding]:
    """The labels that are named are names, each once; a number has none."""
    task = recipe.task
    if not isinstance(task, Labelled):
        return
    if len({str(name).strip() for name in task.labels} - {""}) < len(task.labels):
        yield "task.labels", "`task.labels` names a label twice, or not at all", "give each its own name"
    one = isinstance(task, Tag | ClassifyAudio) or (isinstance(task, Classes) and task.problem is Problem.single_label)
    if one and len(task.labels) == 1:
        what = f"`task.labels` names one label, {task.labels[0]!r}: there is nothing to tell apart"
        yield "task.labels", what, "name all labels in the order of their numbers, or leave it out: those of the rows are taken"
    if isinstance(task, Classes) and task.problem is Problem.regression and task.labels:
        yield "task.labels", "`task.problem=regression` measures one number, which has no labels", "remove one of the two"


def of_encoders(recipe: Recipe) -> Iterator[Finding]:
    """What a task that writes no text does not read, or is not made for yet: said, not passed over."""
    task = recipe.task
    if not isinstance(task, Encoder):
        return
    yield from useless(recipe, "it is for tasks that write text", *ROWS, *CHAT, "trainer.padding_free", "eval.metrics")
    if task.head in ("image", "audio") and recipe.data.overlong is Overlong.drop:
        yield "data.overlong", f"`task={task.kind}` has no use for `data.overlong=drop`: its rows have no length in tokens", "remove it"
    yield from _headed(recipe)


def _headed(recipe: Recipe) -> Iterator[Finding]:
    """What is not made for a model that does not write."""
    adapter, name = recipe.adapter, f"`task={recipe.task.kind}`"
    if isinstance(adapter, Lora) and adapter.init_lora_weights not in (Init.default, Init.gaussian):
        key = "adapter.init_lora_weights"
        yield key, f"{name} has no use for `{key}={adapter.init_lora_weights}`: it is for models that write", "use `adapter=lora`"
    if recipe.model.add_tokens:
        yield "model.add_tokens", f"{name} has no use for `model.add_tokens`: they are for models that write", "remove it"
    if isinstance(adapter, Virtual):
        what = f"{name} trains a head beside the adapter, and {adapter.label} is only known to us for models that write"
        yield "adapter", what, "use `adapter=lora`, or `adapter=full`"


def preferring(recipe: Recipe) -> Iterator[Finding]:
    """What a task of pairs does not read, or is not made for yet."""
    task = recipe.task
    if not isinstance(task, Paired):
        return
    fixes = {"trainer.label_smoothing_factor": "use `task.label_noise`"} if isinstance(task, Dpo) else {}
    keys = (*ROWS, "trainer.label_smoothing_factor", "eval.metrics")
    yield from useless(recipe, "it is for tasks that learn one answer", *keys, fixes=fixes)
    if isinstance(task, Kto) and recipe.trainer.batch_size < 2:
        yield "trainer.batch_size", "KTO compares the answers of a batch, and there is one", "take 16 or more"
    if isinstance(task, Reward):
        yield from _headed(recipe)
    if isinstance(task, Dpo) and task.label_noise and task.loss_type not in (Preference.sigmoid, Preference.robust):
        yield "task.label_noise", f"`task.loss_type={task.loss_type}` knows no `task.label_noise`", "use `robust`, or `sigmoid`"


def writing(recipe: Recipe) -> Iterator[Finding]:
    """What a task of an encoder and a decoder does not read, or is not made for yet."""
    if not isinstance(recipe.task, Seq2Seq):
        return
    other = "use `adapter=lora`, or `adapter=full`"
    fixes = {"data.system": "write `task.prefix`", "adapter": other, "adapter.init_lora_weights": other}
    keys = (*ROWS, *CHAT, "trainer.padding_free", "model.add_tokens", "adapter.init_lora_weights", "adapter")
    yield from useless(recipe, "it is for models that chat", *keys, fixes=fixes)


def calling(recipe: Recipe) -> Iterator[Finding]:
    """Functions are called in conversations of texts."""
    if isinstance(recipe.task, Seq2Seq | Vlm) and "tool_calls" in recipe.eval.metrics:
        what = f"`eval.metrics=[tool_calls]` measures calls of tools, which `task={recipe.task.kind}` does not learn"
        yield "eval.metrics", what, "remove it: calls are learned by `task=sft`"


def seeing(recipe: Recipe) -> Iterator[Finding]:
    """What a task of images and texts does not read, or is not made for yet."""
    if not isinstance(recipe.task, Vlm):
        return
    other = "use `adapter=lora`, or `adapter=full`"
    keys = (*ROWS, "trainer.padding_free", "model.add_tokens", "adapter.init_lora_weights", "adapter")
    yield from useless(recipe, "it is for models of texts alone", *keys, fixes={"adapter": other, "adapter.init_lora_weights": other})


def embedding(recipe: Recipe) -> Iterator[Finding]:
    """The lengths of Matryoshka's vectors are lengths, and rows learn from each other."""
    task = recipe.task
    if not isinstance(task, Embed):
        return
    if any(size < 1 for size in task.matryoshka_dims) or len(set(task.matryoshka_dims)) < len(task.matryoshka_dims):
        yield "task.matryoshka_dims", f"`task.matryoshka_dims` is {task.matryoshka_dims}: lengths of vectors, each once", "mend it"
    if recipe.trainer.batch_size < 2:
        yield "trainer.batch_size", "each row of a batch learns from the others, and there is one", "take 32 or more"
    if recipe.trainer.label_smoothing_factor:
        yield "trainer.label_smoothing_factor", "`task=embed` has no labels to smooth", "remove it"


def asking(recipe: Recipe) -> Iterator[Finding]:
    """Windows of a text move on; what is longer is not cut, and places have no labels to smooth."""
    task = recipe.task
    if not isinstance(task, Qa):
        return
    if task.stride >= task.max_length:
        what = f"`task.stride` ({task.stride}) is not below `task.max_length` ({task.max_length}): no window would move on"
        yield "task.stride", what, "lower it"
    yield from useless(recipe, "an answer is a place in a text", "trainer.label_smoothing_factor")
    if recipe.data.overlong is Overlong.drop:
        yield "data.overlong", "`task=qa` has no use for `data.overlong=drop`: a longer text becomes several windows", "remove it"


def pretraining(recipe: Recipe) -> Iterator[Finding]:
    """What texts without turns have no use for; and what begins from nothing is trained whole."""
    if recipe.model.init is Start.random:
        if recipe.task.head != "causal":
            yield "model.init", "`model.init=random` is for models that write", "remove it"
        if not isinstance(recipe.adapter, Full):
            yield "model.init", "an adapter over weights by chance is of no use", "use `adapter=full`"
    if not isinstance(recipe.task, Pretrain):
        return
    why = "texts lie end to end in full rows"
    yield from useless(recipe, why, *(key for key in ROWS if key != "data.streaming"), *CHAT, "eval.metrics")
    if recipe.trainer.padding_free is Choice.never:
        yield "trainer.padding_free", f"`task=pretrain` has no use for `trainer.padding_free=never`: {why}", "remove it"
    if recipe.data.overlong is Overlong.drop:
        yield "data.overlong", f"`task=pretrain` has no use for `data.overlong=drop`: {why}", "remove it"


def distilling(recipe: Recipe) -> Iterator[Finding]:
    """Somebody teaches; and what is not made for two models."""
    task = recipe.task
    if not isinstance(task, Distil):
        return
    if not task.teacher:
        fix = "name a model (`task.teacher=qwen3-8b`), an id of the Hub, a folder, or run:NAME"
        yield "task.teacher", "`task.teacher` is not set: nobody teaches", fix
    keys = ("trainer.torch_compile", "hardware.devices_per_row", "model.add_tokens")
    yield from useless(recipe, "the teacher reads the same rows as the student", *keys)
    if isinstance(recipe.hardware, DeepSpeed) and recipe.hardware.zero_stage == 3:
        yield "hardware.zero_stage", "under ZeRO-3 the teacher's weights would be cut too, and gathered by nobody", "use `hardware=fsdp`"


def looking(recipe: Recipe) -> Iterator[Finding]:
    """What one look is made for."""
    if isinstance(recipe.debug, Noise) and recipe.task.kind not in NEXT_TOKEN:
        what = f"`debug=noise` counts the tokens that a loss is the mean of, and that of `task={recipe.task.kind}` is of other things"
        yield "debug", what, f"it is for {' and '.join(NEXT_TOKEN)}: choose `trainer.batch_size` by trying"


RULES = (
    read_by_others,
    looking,
    distilling,
    pretraining,
    packing,
    labels,
    of_encoders,
    preferring,
    writing,
    calling,
    seeing,
    embedding,
    asking,
)
