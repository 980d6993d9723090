"""One training from start or from the last whole checkpoint to the saved result: `fit(run, task, prepared)`."""

from __future__ import annotations

import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed

from tuner import progress
from tuner.capacity import bf16_units
from tuner.context import Run
from tuner.data.store import stored
from tuner.model.adapt import fast_lora
from tuner.model.counts import describe
from tuner.registry import load
from tuner.render import number
from tuner.schema.adapter import AdaLora
from tuner.schema.beyond_lora import Virtual
from tuner.schema.debug import LrFinder, Profile
from tuner.schema.rewarded import Rewarded
from tuner.schema.task import Sft
from tuner.schema.trainer import Precision
from tuner.state import note
from tuner.train.adalora import Allocation
from tuner.train.args import arguments
from tuner.train.average import Ema, settle
from tuner.train.budget import affordable
from tuner.train.callbacks import Interrupt, Interrupted, Log, SaveAtBest, out_of_patience
from tuner.train.checkpoints import PREFIX, newest, step_of
from tuner.train.compiled import compiled
from tuner.train.guards import ALIKE, GradientsFlow, LossGuard
from tuner.train.oom import out_of_memory, too_large
from tuner.train.placing import dimensions, longest, placed
from tuner.train.result import Savable, best_of, gathered, write
from tuner.train.saving import Checkpoints, SaveFirst, SavesBehind, Writer
from tuner.train.strategies.base import strategy_of
from tuner.train.together import came_up, complete, from_leader
from tuner.train.tracking import trackers


class Trainable(Savable, Protocol):
    """The part of a task that training needs."""

    def trainer(self, run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
        """A trainer over the prepared rows."""

    def probe(self, run: Run, model: nn.Module) -> float:
        """The loss of a few training rows."""


def fit(run: Run, task: Trainable, prepared: Path) -> dict[str, Any]:
    """Train and save; returns facts for the stage's marker. Raises TuneError when the loss goes wrong, Interrupted on a signal."""
    _seeded(run)
    folder, rows, shape = run.folder / "checkpoints", stored(prepared), dimensions(run)
    length = run.recipe.task.max_length if run.recipe.data.streaming else longest(rows, run.recipe.task.max_length)
    length = run.recipe.task.grown(length)
    recipe = placed(run, shape, length)
    args = arguments(recipe, folder, run.device, rows=len(rows), processes=run.world)
    complete(run.world)
    run.placing = strategy_of(run.recipe.hardware).loading(run.recipe.hardware)
    model, counts = _loaded(run, task)  # not before: how it is loaded may depend on the strategy, which the arguments set up
    checkpoint = from_leader(lambda: _begun(run, folder))
    if checkpoint:
        run.tell(f"going on from step {step_of(checkpoint)} of {args.max_steps}")
    narrow = _in_fp32(model, args)
    if run.leads:
        affordable(run, model, steps=args.max_steps)
    interrupt, log = Interrupt(run.tell, saves=_saves(run)), Log(run.folder / "train_log.jsonl")
    writer = Writer(background=run.recipe.hardware.async_save)
    try:
        note(run.folder, step=step_of(checkpoint) if checkpoint else 0, steps=args.max_steps)
        begun, counted = step_of(checkpoint) if checkpoint else 0, recipe.task.counted
        shown = progress.training(args.max_steps, begun, counted=counted) if run.leads else nullcontext(log.report)
        with shown as report, fast_lora(model, args), compiled(model, wanted=run.recipe.trainer.torch_compile):
            log.report = report
            trainer = task.trainer(run, model, args, prepared, _callbacks(run, interrupt, log, writer))
            came_up(run.recipe.hardware, trainer)
            if isinstance(trainer, SavesBehind) and writer.background and not isinstance(run.recipe.adapter, AdaLora | Virtual):
                trainer.writer = writer  # PEFT makes what is saved of these two from the living model
            at = _trained(run, trainer, model, checkpoint, args.max_steps)
            writer.wait()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise too_large(recipe, shape, run, length, args.per_device_train_batch_size, error) from error
    finally:
        writer.join()
        interrupt.release()
    if interrupt.stops and from_leader(lambda: newest(folder, tell=run.tell)) == folder / f"{PREFIX}{trainer.state.global_step}":
        run.tell(f"stopped at step {trainer.state.global_step}; the same command goes on from here")
        raise Interrupted(interrupt.signal_number or signal.SIGTERM)
    if not run.recipe.debug.keeps:
        return {"steps": trainer.state.global_step, "tokens": trainer.state.num_input_tokens_seen, **counts}
    best, chosen = best_of(run, trainer, model)
    settle(trainer, model, run.recipe.trainer.optim, chosen or at)
    model = gathered(run, task, trainer, model)
    files = write(run, task, model) if run.leads else []
    for tensor, dtype in narrow:  # as it is once loaded
        tensor.data = tensor.data.to(dtype)
    return {
        "files": files,
        "seconds_before": log.before if checkpoint else 0.0,
        "steps": trainer.state.global_step,
        "best_step": best,
        "probe_loss": task.probe(run, model) if run.leads else None,
        "tokens": trainer.state.num_input_tokens_seen,
        **counts,
    }


def _seeded(run: Run) -> None:
    set_seed(run.recipe.seed)
    torch.use_deterministic_algorithms(run.device.type == "cpu", warn_only=True)
    # It would write to every new tensor, for code that reads what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _loaded(run: Run, task: Trainable) -> tuple[nn.Module, dict[str, Any]]:
    """The model to train, and its counts, told."""
    model = task.load(run, trainable=True)
    counts = describe(model)
    share = counts["trainable"] / counts["parameters"]
    run.tell(f"training {number(counts['trainable'])} of {number(counts['parameters'])} parameters ({share:.2%}) on {_place(run)}")
    return model, counts


def _saves(run: Run) -> bool:
    """Whether a training that is stopped can go on: not a look, which begins anew, nor one that Transformers cannot write down."""
    return run.recipe.debug.keeps and "distributed_config" not in run.placing


def _begun(run: Run, folder: Path) -> Path | None:
    """The checkpoint to go on from. A look that keeps nothing begins anew: no checkpoint has what it had seen."""
    if run.recipe.debug.keeps:
        return newest(folder, tell=run.tell)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _trained(run: Run, trainer: Any, model: nn.Module, checkpoint: Path | None, steps: int) -> Path | None:
    """Train, from a checkpoint if there is one; returns it where it is the end already, and the model has its weights."""
    if checkpoint and _finished(checkpoint, steps, run.recipe.trainer.early_stopping_patience):
        trainer.state = _state(checkpoint)
        trainer._load_from_checkpoint(str(checkpoint), model)
        return checkpoint
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "close"):  # a look holds on to things
                callback.close()
    return None


def _place(run: Run) -> str:
    """The device by name; of a CPU what multiplies bf16, where that is what is trained in."""
    if run.device.type == "cuda":
        others = torch.cuda.device_count() - run.world
        more = f"; {others} more GPUs are here: hardware=ddp takes them all" if others > 0 and run.world == 1 else ""
        return f"cuda ({torch.cuda.get_device_name(run.device)}){more}"
    units = bf16_units() if run.device.type == "cpu" else None
    if units == [] and run.recipe.trainer.precision is Precision.fp32:
        return f"{run.device.type} (fp32: it has no bf16 instructions)"
    if units is None or run.recipe.trainer.precision is not Precision.bf16:
        return str(run.device.type)
    return f"{run.device.type} ({', '.join(units) or 'no bf16 instructions: trainer.precision=auto is far faster'})"


def _in_fp32(model: nn.Module, args: TrainingArguments) -> list[tuple[Tensor, torch.dtype]]:
    """What is trained, under autocast, with what its modules keep of what they saw (batch norms): a step is often below what bf16 can add.
    PEFT leaves copies of modules in the base's format. Returns what was changed, and from which format.
    """
    before: list[tuple[Tensor, torch.dtype]] = []
    for module in model.modules() if args.bf16 or args.fp16 else ():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and p.dtype != torch.float32 and not hasattr(p, "ds_id")]
        kept = [b for b in module.buffers(recurse=False) if own and b.is_floating_point()]
        before += [(tensor, tensor.dtype) for tensor in (*own, *kept)]
    for tensor, _ in before:
        tensor.data = tensor.data.float()
    return before


def _state(checkpoint: Path) -> TrainerState:
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def _finished(checkpoint: Path, max_steps: int, patience: int | None) -> bool:
    """Whether nothing is left to train: a kill came before the result was saved. Transformers would take one step more."""
    state = _state(checkpoint)
    return state.global_step >= max_steps or out_of_patience(state.log_history, patience)


def _callbacks(run: Run, interrupt: Interrupt, log: Log, writer: Writer) -> list[TrainerCallback]:
    trainer = run.recipe.trainer
    debug = run.recipe.debug
    found: list[TrainerCallback] = [SaveFirst(), *([log] if run.leads else []), interrupt]
    if not isinstance(debug, LrFinder):
        found.insert(1, LossGuard(trainer.max_loss_factor, writes=isinstance(run.recipe.task, Sft)))
    if debug.impl and (run.leads or not isinstance(debug, Profile)):
        found.insert(0, load(debug.impl).watch(run, debug))  # before the log, which tells what it sets
    if trainer.load_best_model_at_end or trainer.early_stopping_patience:
        found.append(SaveAtBest(trainer.early_stopping_patience))
    if isinstance(run.recipe.adapter, AdaLora):
        found.append(Allocation(run.recipe.adapter))
    if trainer.ema_decay is not None:
        found.append(Ema(trainer.ema_decay))
    return [
        *found,
        GradientsFlow(ALIKE if isinstance(run.recipe.task, Rewarded) else 0),
        Checkpoints(trainer.save_total_limit, writer, lambda step: note(run.folder, step=step)),
        *(trackers(run) if run.leads else ()),
    ]
