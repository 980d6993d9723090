"""Transformers' Trainer with our loss and our checkpoints: `TokenTrainer(model=…, rows=…, padding_free=True).train()`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, Subset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from tuner.data.store import Stored
from tuner.data.stream import Stream
from tuner.model import packed
from tuner.model.adapt import measuring
from tuner.model.batches import flat, padded
from tuner.model.objectives import Objective
from tuner.schema.adapter import AdaLora, Adapter
from tuner.schema.trainer import SCHEDULE_FREE, Optim
from tuner.train.adalora import penalty, restore
from tuner.train.average import Ema
from tuner.train.batches import StreamBatches
from tuner.train.oom import Room
from tuner.train.optimizers import choose
from tuner.train.rows import Even, Filled, places, share_of
from tuner.train.saving import SavesBehind
from tuner.train.together import total, totals

Item = dict[str, Any]


class TokenTrainer(SavesBehind):
    """Trains on token rows, for the next token unless there is an `objective`; counts tokens over resumes (`state.num_input_tokens_seen`).

    TRL's SFTTrainer adds a data path, a head that scores every position and 6 s of imports; rows come ready-made here, so none is used.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        adapter: Adapter,
        optim: Optim,
        rows: Stored | Stream | Subset[Any],
        eval_rows: Stored | None,
        tokenizer: PreTrainedTokenizerBase,
        padding_free: bool,
        callbacks: list[TrainerCallback],
        tell: Callable[[str], None] = lambda text: None,
        sharing: int = 1,
        fixed: int | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.objective: Objective | None = objective
        self.blank = objective.blank if objective else None
        self.padding_free, self.adapter, self.optim = padding_free, adapter, optim
        self.alone = args.world_size == 1
        self.room = Room(tell, cuts=self.alone and fixed is None and not (objective and objective.whole))
        self.sharing, self.groups = sharing, args.world_size // sharing
        if padding_free:
            packed.score_in_forward(model)
        self.fixed = fixed
        collate: Any = objective.collate if objective else partial(flat, total=fixed) if padding_free else padded(tokenizer)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=rows if self.alone or isinstance(rows, Stream) else Filled(rows, self.blank),
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        # The loss is divided by the trained tokens of the whole global batch, whatever the micro-batch.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """The mean cross-entropy of trained tokens; only those pass the head when padding-free."""
        loss = (
            self._cross_entropy(model, inputs, num_items_in_batch)
            if self.objective is None
            else self._lost(model, inputs, num_items_in_batch)
        )
        if isinstance(self.adapter, AdaLora) and model.training:
            loss = loss + penalty(model, self.adapter) / (self.args.gradient_accumulation_steps * self.room.parts)
        return (loss, {}) if return_outputs else loss

    def _cross_entropy(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        smoother = self.label_smoother
        if not self.padding_free:
            try:
                self.label_smoother = smoother if model.training else None  # held-out loss is that of the labels
                loss = cast(Tensor, super().compute_loss(model, inputs, False, num_items_in_batch))
                return loss if model.training else loss / self.groups
            finally:
                self.label_smoother = smoother
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"][:, 1:] != packed.IGNORE).sum()
        loss = cast(Tensor, model(**inputs, num_items=count, smoothing=self.args.label_smoothing_factor if model.training else 0.0))
        return loss * self.args.world_size if model.training else loss  # of which the gradients' mean is taken

    def _lost(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """The mean of what the objective loses, over what is learned of the global batch."""
        assert self.objective is not None
        count = num_items_in_batch if num_items_in_batch is not None else self.objective.count(inputs)
        lost = self.objective.loss(model, inputs, self.args.label_smoothing_factor if model.training else 0.0)
        loss = (lost / (count + (count == 0))).sum()  # answers that are worth the same make no pair: their batch teaches nothing
        return loss * self.args.world_size if model.training else loss  # of which the gradients' mean is taken

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | int | None:
        if self.objective is None:
            return super()._get_num_items_in_batch(batch_samples, device)
        count = torch.stack([self.objective.count(batch) for batch in batch_samples]).sum(0).to(device)
        return count if self.alone else cast(Tensor, self.accelerator.gather(count)).reshape(-1, *count.shape).sum(0)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of an optimizer step; with what the model adds to them, where the objective has it act first."""
        if self.objective is None or self.objective.acts is None:
            return cast(tuple[list[Any], Any], super().get_batch_samples(epoch_iterator, num_batches, device))
        with self.compute_loss_context_manager():
            step = self.state.global_step * self.args.world_size + self.args.process_index
            samples = self.objective.acts(self.model, list(islice(epoch_iterator, num_batches)), (self.args.seed << 32) + step)
        return samples, self._get_num_items_in_batch(samples, device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the mean of what was noted of sampled answers since the last time."""
        if self.objective and "loss" in logs and (sums := self.objective.noted()):
            reward, answers, tokens, prompts, alike = totals(*sums.values())
            if answers:
                logs = logs | {"reward": reward / answers, "answer_tokens": tokens / answers, "alike": alike / prompts}
        super().log(logs, start_time)

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """Transformers' choice, or Muon; with LoRA+ the second matrices in a group of their own."""
        choose(self)
        return super().create_optimizer(*args, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights, and what else AdaLoRA needs of the step that they are from."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.adapter, AdaLora):
            restore(model or self.model, Path(resume_from_checkpoint))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One forward and backward pass; in smaller parts once memory has run out."""
        seen = inputs["input_ids"].numel() if self.padding_free else places(inputs)
        seen = seen - inputs.pop("filler")
        self.state.num_input_tokens_seen += total(int(seen)) // self.sharing
        parent: Any = super()
        return self.room.step(self, inputs, lambda part: parent.training_step(model, part, num_items_in_batch))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """Of one process Transformers' own; of several the same order, each row once."""
        lengths, block = (self.objective.lengths, self.objective.block) if self.objective else (None, 1)
        if self.alone and lengths is None:
            return super()._get_train_sampler(train_dataset)
        at_once = self.args.per_device_train_batch_size * self.groups
        batch = at_once * self.args.gradient_accumulation_steps
        return Even(train_dataset, 1 if self.alone else at_once, lengths=lengths, batch=batch, block=block)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of prepared rows; or of a stream, from the sample at which training stands."""
        rows: Any = self.train_dataset
        return cast(DataLoader[Any], StreamBatches(self, rows)) if isinstance(rows, Stream) else super().get_train_dataloader()

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Held-out loss, the mean over all trained tokens. Transformers' is a mean over batches, which the micro-batch would change."""
        model: Any = self.model
        held_out: Any = dataloader.dataset
        if not self.alone:  # Accelerate's loader would measure some rows twice
            mine = share_of(len(held_out), rank=self.args.process_index // self.sharing, world=self.groups)
            dataloader = DataLoader(
                Filled(held_out, self.blank), self.args.per_device_eval_batch_size, sampler=mine, collate_fn=self.data_collator
            )
        measuring(model)
        if self.optim in SCHEDULE_FREE:  # which hold the averaged weights beside those that they step from
            cast(Any, self.optimizer).eval()
        sums, counts = torch.zeros(2, 1, dtype=torch.float64)
        stance = torch.compiler.set_stance("force_eager") if self.fixed else nullcontext()  # held-out rows have all shapes
        ema = next((c for c in self.callback_handler.callbacks if isinstance(c, Ema)), None)
        with stance, ema.measured(model) if ema else nullcontext():
            for batch in dataloader:
                inputs = self._prepare_inputs(batch)
                inputs.pop("filler", None)
                count = self.objective.count(inputs) if self.objective else (inputs["labels"][:, 1:] != packed.IGNORE).sum()
                if count.any() or not self.alone:  # the others' passes need this one's
                    if self.objective:
                        lost = self.objective.loss(model, inputs, 0.0).cpu().double()
                    else:
                        lost = self.compute_loss(model, inputs, num_items_in_batch=count.clamp(min=1)).cpu().double() * count.cpu()
                    sums, counts = sums + lost, counts + count.cpu()
        sums, counts = torch.tensor(totals(*sums.tolist(), *counts.tolist()), dtype=torch.float64).reshape(2, -1)
        return EvalLoopOutput(
            predictions=None,  # type: ignore[arg-type]
            label_ids=None,
            metrics={f"{metric_key_prefix}_loss": float((sums / (counts + (counts == 0))).sum()) if counts.any() else math.nan},
            num_samples=len(held_out),
        )
