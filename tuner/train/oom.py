"""Out of memory in training: `Room(tell).step(trainer, inputs, one)` passes a micro-batch in ever smaller parts, and no sample is lost.

Accelerate's `find_executable_batch_size` and Transformers' `auto_find_batch_size` begin the training anew; here the optimizer step at
hand is done again from its start, so that what was trained stays. The loss is divided by the trained tokens of the whole global batch:
the sum over parts is the same, whatever the parts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import Trainer

from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.memory import Load, cuts, edits
from tuner.schema.recipe import Recipe

Batch = dict[str, Any]


class Room:
    """How many rows pass at once, once memory has run out; and what this optimizer step has seen, to do it again.

    `cuts`: whether a micro-batch may pass in parts. Other ranks would wait for this one, and what is compiled is so for one shape.
    """

    def __init__(self, tell: Callable[[str], None], *, cuts: bool = True) -> None:
        self.tell, self.told, self.cuts = tell, False, cuts
        self.rows: int | None = None
        self.parts = 1  # of the micro-batch at hand
        self._step, self._seen = -1, list[Batch]()
        self._random: list[Tensor] = []

    def step(self, trainer: Trainer, inputs: Batch, one: Callable[[Batch], Tensor]) -> Tensor:
        """Forward and backward of a micro-batch; returns its loss. Passes on the error where one row at once is still too much."""
        if trainer.state.global_step != self._step:
            self._step, self._seen, self._random = trainer.state.global_step, [], _random_state()
        self._seen.append(inputs)
        again = [inputs]
        while True:
            failed = False
            try:
                losses = [self._pass(batch, one) for batch in again]
            except (RuntimeError, MemoryError) as error:
                largest = max(rows_of(batch) for batch in again)
                at_once = min(largest, self.rows or largest)
                if not self.cuts or not out_of_memory(error) or at_once == 1:
                    raise
                failed = True
            if not failed:
                return losses[-1]  # those before it in this step were counted when they passed
            self.rows = max(1, at_once // 2)  # out here the failed pass has let go of its tensors
            gc.collect()
            clear_device_cache()
            if not self.told:
                self.tell(f"out of memory with {at_once} rows at once: {self.rows} from here on, the global batch is kept")
                self.told = True
            trainer.model.zero_grad()  # type: ignore[union-attr]
            _set_random_state(self._random)
            again = self._seen

    def _pass(self, batch: Batch, one: Callable[[Batch], Tensor]) -> Tensor:
        parts = split(batch, self.rows) if self.rows else [batch]
        self.parts = len(parts)
        total = one(parts[0])
        for part in parts[1:]:
            total = total + one(part)
        return total


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: the GPU's or PyTorch's CPU allocator, or Python's own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def rows_of(batch: Batch) -> int:
    """Rows of a micro-batch, flattened or padded."""
    return len(batch["cu_seq_lens_q"]) - 1 if "cu_seq_lens_q" in batch else len(batch["labels" if "labels" in batch else "input_ids"])


def split(batch: Batch, rows: int) -> list[Batch]:
    """The same rows in batches of at most so many."""
    total = rows_of(batch)
    if total <= rows:
        return [batch]
    if "cu_seq_lens_q" not in batch:
        return [{name: value[first : first + rows] for name, value in batch.items()} for first in range(0, total, rows)]
    starts = batch["cu_seq_lens_q"]
    found = []
    for first in range(0, total, rows):
        bounds = starts[first : first + rows + 1]
        begin, end = int(bounds[0]), int(bounds[-1])
        part = {name: batch[name][:, begin:end] for name in ("input_ids", "labels", "position_ids")}
        longest = int(bounds.diff().max())
        part |= {"cu_seq_lens_q": bounds - begin, "cu_seq_lens_k": bounds - begin, "max_length_q": longest, "max_length_k": longest}
        found.append(part)
    return found


def too_large(recipe: Recipe, shape: dict[str, Any] | None, run: Run, length: int, micro: int, error: BaseException) -> TuneError:
    """The error when one row at once (where nothing is cut, `micro`) is too much, with up to three changes and what each would save."""
    together = recipe.task.whole
    rows = micro if run.world > 1 or recipe.trainer.torch_compile or together else 1
    load = Load(rows=rows, length=length, cpu=run.device.type == "cpu", cuts=cuts(recipe.hardware, run.world))
    ranked = edits(recipe, shape, load)[:3] if shape else []
    fixes = [f"`{change}` saves about {saved / 2**30:.2f} GiB" for change, saved in ranked]
    said = (str(error).splitlines() or [type(error).__name__])[0]
    fix = "; ".join(fixes) or "lower task.max_length, or use a smaller model"
    if load.rows > 1:
        why = "a batch that is compiled for is not cut" if recipe.trainer.torch_compile else "the other processes would wait for this one"
        why = (
            "a batch of images is not cut"
            if recipe.task.head in ("image_text", "detection")
            else "they learn from each other"
            if together
            else why
        )
        what = f"out of memory with {load.rows} rows at once, which are not cut while training ({why}): {said}"
        return TuneError(what, "hardware.micro_batch_size", f"lower `hardware.micro_batch_size`; {fix}", code=ENVIRONMENT)
    return TuneError(f"out of memory with one row at once: {said}", "hardware", fix, code=ENVIRONMENT)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [torch.get_rng_state()]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])
