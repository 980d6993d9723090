"""What is learned from a teacher: `of_teacher(task, tokenizer, teaches, padding_free=True)` -> an Objective for TokenTrainer.

The distance has the form that TRL 1.16 gives it (`GKDTrainer.generalized_jsd_loss`), times temperature², so that the share of the rows' own
answers stays what it was (https://arxiv.org/abs/1503.02531).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.store import IGNORE
from tuner.errors import BAD_RECIPE, TuneError
from tuner.model import packed
from tuner.model.adapt import measuring, quantization
from tuner.model.batches import flat, padded, supervised
from tuner.model.kernels import MAX_LOGITS
from tuner.model.load import dtype_of, load_base, load_tokenizer
from tuner.model.objectives import Batch, Objective
from tuner.render import number
from tuner.schema.adapter import QLora, Quant
from tuner.schema.distil import Distil, Held
from tuner.schema.teacher import KEY, is_base, teacher_of

Teaches = Callable[[Batch], Tensor]


def divergence(ours: Tensor, theirs: Tensor, *, beta: float, temperature: float) -> Tensor:
    """How far a student's logits [N, V] are from a teacher's [N, V′], over the tokens that both have [N]: KL(teacher ‖ student) where
    `beta` is 0, KL(student ‖ teacher) where it is 1, between them the generalised Jensen-Shannon divergence."""
    common = min(ours.shape[-1], theirs.shape[-1])  # rows of an embedding that no token has differ in number
    student = F.log_softmax(ours[:, :common].float() / temperature, dim=-1)
    teacher = F.log_softmax(theirs[:, :common].float() / temperature, dim=-1)
    if beta == 0:
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return F.kl_div(teacher, student, reduction="none", log_target=True).sum(-1)
    between = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
    of_teacher, of_student = (F.kl_div(between, one, reduction="none", log_target=True).sum(-1) for one in (teacher, student))
    return beta * of_teacher + (1 - beta) * of_student


def of_teacher(task: Distil, tokenizer: PreTrainedTokenizerBase, teaches: Teaches, *, padding_free: bool) -> Objective:
    """What is learned: the rows' own answers, and how likely the teacher finds every token in their places.

    `teaches` gives the teacher's logits of a batch's trained tokens. Of both models only those pass the head (padding-free), and only a
    chunk of them is compared at a time.
    """
    collate = flat if padding_free else padded(tokenizer)

    def compared(ours: Tensor, theirs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        own = F.cross_entropy(ours.float(), targets, reduction="sum", label_smoothing=smoothing)
        away = divergence(ours, theirs, beta=task.jsd_beta, temperature=task.temperature).sum()
        return task.alpha * own + (1 - task.alpha) * task.temperature**2 * away

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        with torch.no_grad():
            theirs = teaches(batch)
        ours, targets, _, _ = supervised(model, batch)
        at_once = max(1, MAX_LOGITS.get(ours.device.type, MAX_LOGITS["cuda"]) // ours.shape[-1])
        parts = zip(ours.split(at_once), theirs.split(at_once), targets.split(at_once), strict=True)
        losses = [checkpoint(compared, *part, smoothing, use_reentrant=False) for part in parts]
        return torch.stack(losses).sum()

    blank = [{"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "blank": True}]
    return Objective(collate=collate, loss=lost, count=lambda batch: (batch["labels"][:, 1:] != IGNORE).sum(), blank=blank)


def load_teacher(run: Run) -> PreTrainedModel:
    """The model that teaches, frozen, once in this process. Raises TuneError (code 4) when it cannot be had."""
    model, task = teacher_of(run.recipe), run.recipe.task
    assert model is not None
    assert isinstance(task, Distil)

    def load() -> PreTrainedModel:
        dtype = dtype_of(model, run.device)
        held = None if task.teacher_quant is Held.none else quantization(QLora(quant=Quant[task.teacher_quant.name]), dtype)
        placing = {"device_map": {"": run.device}} if held else None
        teacher = load_base(model, run.device, progress=run.tell, quantization=held, placing=placing)
        run.tell(f"the teacher: {model.id}, {number(teacher.num_parameters())} parameters")
        teacher.requires_grad_(False)
        frozen: PreTrainedModel = measuring(teacher)
        return frozen

    teacher: PreTrainedModel = run.keep("teacher", load)
    return teacher


def teaching(run: Run, student: nn.Module, *, padding_free: bool, packing: bool) -> tuple[Teaches, bool]:
    """Who teaches a student in training: its base with the adapter off, or another model; and whether both read without padding."""
    if isinstance(student, PeftModel) and is_base(run.recipe):
        run.tell("the teacher is the student's base, with the adapter off: no second model is held")
        base: PeftModel = student

        def own(batch: Batch) -> Tensor:
            with _without_adapter(base):
                return supervised(base, batch)[0]

        return own, padding_free
    teacher = load_teacher(run)
    reason = _packable(teacher) if padding_free else None
    if reason and packing:
        raise TuneError(f"the teacher cannot be had without padding: {reason}", "task.packing", "use `task.packing=false`", code=BAD_RECIPE)
    if reason:
        run.tell(f"training with padding: of the teacher, {reason}")
    return lambda batch: supervised(teacher, batch)[0], padding_free and not reason


def _packable(teacher: PreTrainedModel) -> str | None:
    """Why a teacher does not take rows laid end to end; None: it does, and is made to."""
    before = teacher.config._attn_implementation
    try:
        teacher.set_attn_implementation(packed.ATTENTION)
        reason = packed.supported(teacher)
    except ValueError as error:
        reason = str(error).splitlines()[0]
    if reason is not None and before is not None:
        teacher.set_attn_implementation(before)
    return reason


@contextlib.contextmanager
def _without_adapter(model: PeftModel) -> Iterator[None]:
    """The base as it was, without dropout."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(training)


def same_tokens(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises TuneError (code 2) where the teacher has other tokens than the student: their distributions cannot be compared."""
    model = teacher_of(run.recipe)
    assert model is not None
    if is_base(run.recipe):
        return
    theirs: dict[str, Any] = load_tokenizer(model, progress=run.tell, chats=False)[0].get_vocab()
    ours: dict[str, Any] = tokenizer.get_vocab()
    if ours == theirs:
        return
    other = next((token for token, index in sorted(ours.items(), key=lambda item: item[1]) if theirs.get(token) != index), None)
    other = other if other is not None else next(token for token in theirs if token not in ours)
    what = f"the teacher {model.id} has other tokens than {run.recipe.model.id} ({len(theirs):,} and {len(ours):,}"
    what += f"): {other!r} is number {theirs.get(other, 'none')} of the teacher's and {ours.get(other, 'none')} of the student's"
    raise TuneError(what, KEY, "take a teacher of the student's own family, whose tokenizer is the same")
