"""Rules that the tables share: `batch` (rows a device × accumulation × devices), `scheduler`, `optimizer`, `targets`."""

from __future__ import annotations

from typing import Any

from tuner.imports.draft import Draft, Rule, is_file
from tuner.schema.trainer import Optim, Scheduler

OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit", "paged_adamw": "paged_adamw_32bit", "adamw_hf": "adamw_torch"}
OPTIMIZERS |= {"galore_adamw_8bit": "galore_adamw", "lion": "lion_32bit"}
REWARDED = ("grpo", "rloo")  # whose batches count answers there, and prompts here
TRACKERS = ("wandb", "trackio", "tensorboard")
PACKAGES = "how it is computed, not what: chosen here by what is installed"
CACHE = "caches are kept here by content"
PLACES = "runs lie in outputs/NAME, by the plan's key"
STOCHASTIC = "not one of the settings here"
QUIET = "measured and logged here in one way"


def batch(draft: Draft, key: str, value: Any) -> None:
    """The global batch of rows a device, accumulation steps and devices; each of the keys leads here, the first sets it."""
    micro = next((draft.config[k] for k in ("micro_batch_size", "per_device_train_batch_size") if draft.config.get(k)), None)
    micro = int(micro or {"axolotl": 1}.get(draft.peer, 8))
    steps = int(draft.config.get("gradient_accumulation_steps") or 1)
    whole = draft.peer == "axolotl" and draft.config.get("batch_size")
    answers = int(draft.config.get("num_generations") or 8) if draft.options.get("task") in REWARDED else 1
    total = int(whole) if whole else max(1, micro * steps * draft.devices // answers)
    devices = f"{draft.devices} device" + ("s" if draft.devices > 1 else "")
    draft.put(
        key,
        value,
        "trainer.batch_size",
        total,
        note=f"{micro} a device × {steps} accumulated × {devices}" + (f", / {answers} answers a prompt" if answers > 1 else ""),
    )


def scheduler(draft: Draft, key: str, value: Any) -> None:
    """A learning-rate curve by name."""
    if value in list(Scheduler):
        draft.put(key, value, "trainer.lr_scheduler_type", value)
    else:
        near = "cosine" if "cosine" in str(value) else "linear"
        draft.leave(key, value, f"no such curve here: {', '.join(Scheduler)}; `trainer.lr_scheduler_type: {near}` comes near")


def optimizer(draft: Draft, key: str, value: Any) -> None:
    """An optimizer by name."""
    name = OPTIMIZERS.get(str(value), str(value))
    if name == "adamw_torch_fused":
        draft.same(key, value, "AdamW, the default, fused or not")
    elif name in list(Optim):
        draft.put(key, value, "trainer.optim", name)
    else:
        draft.leave(key, value, "no such optimizer here: `tune explain trainer.optim`; AdamW is used")


def targets(draft: Draft, key: str, value: Any) -> None:
    """Modules that get an adapter."""
    names = [n.strip() for n in value.split(",")] if isinstance(value, str) else value
    names = "all-linear" if names in (["all"], ["all-linear"]) else names
    draft.put(key, value, "adapter.target_modules", names)


def precision(name: str) -> Rule:
    """`bf16: true`, `fp16: true`."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value == "auto":
            draft.same(key, value, "`auto` takes bf16 where the device has it")
        elif value in (True, "true", "full"):
            draft.put(key, value, "trainer.precision", name)
        else:
            draft.same(key, value, "see the other precisions")

    return rule


def warmup(draft: Draft, key: str, value: Any) -> None:
    """A number of steps becomes a share where the number of all steps is known; a number below 1 is a share."""
    steps = draft.config.get("max_steps") or 0
    if not value:
        draft.put(key, value, "trainer.warmup_ratio", 0.0)
    elif float(value) < 1:
        draft.put(key, value, "trainer.warmup_ratio", float(value))
    elif int(steps) > 0:
        draft.put(key, value, "trainer.warmup_ratio", min(0.99, round(float(value) / int(steps), 4)))
    else:
        draft.leave(
            key, value, "a share of all steps here, and how many there are is not said: `trainer.warmup_ratio: 0.03`, the default, is used"
        )


def steps_of(ours: str) -> Rule:
    """`eval_steps`, `save_steps`: a number of steps; a share of all (below 1) has no counterpart."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value and float(value) >= 1:
            draft.put(key, value, ours, int(value))
        else:
            draft.leave(key, value, f"`{ours}` is a number of steps here")

    return rule


def max_steps(draft: Draft, key: str, value: Any) -> None:
    """-1 is none."""
    if value and int(value) > 0:
        draft.put(key, value, "trainer.max_steps", int(value))
    else:
        draft.same(key, value, "epochs count")


def report(draft: Draft, key: str, value: Any) -> None:
    """The first tracker that is known here."""
    names = value if isinstance(value, list) else [value]
    known = [n for n in names if n in TRACKERS]
    if known:
        draft.choose(key, value, "tracking", known[0])
    elif set(names) <= {"none", None, "None", False}:
        draft.same(key, value, "the run's own log is always written")
    else:
        draft.leave(key, value, f"trackers here: {', '.join(TRACKERS)}")


def rows(draft: Draft, key: str, value: Any, path: str) -> None:
    """A data set of one source."""
    draft.put(key, value, "data.path" if is_file(path) else "data.id", path)


def held_out(draft: Draft, key: str, value: Any) -> None:
    """A share, a number of rows, or none, where a tenth is held out here."""
    if not value:
        draft.same(key, value, "a tenth of the rows is held out and measured here; all rows: `data.eval_fraction: 0` with `- eval: none`")
    elif float(value) < 1:
        draft.put(key, value, "data.eval_fraction", float(value))
    else:
        draft.put(key, value, "data.eval_rows", int(value))


def deepspeed(draft: Draft, key: str, value: Any) -> None:
    """ZeRO by the number in the file's name, or by the stage in the mapping."""
    stage = value.get("zero_optimization", {}).get("stage") if isinstance(value, dict) else None
    text = str(value)
    stage = stage or next((n for n in (3, 2, 1) if f"zero{n}" in text or f"z{n}" in text), None)
    if stage is None:
        draft.leave(key, value, "the stage is in a file: choose `- hardware: zero2` or `zero3`")
        return
    offload = "offload" in text and stage == 3
    draft.choose(key, value, "hardware", "zero3_offload" if offload else f"zero{stage}")


def recomputation(draft: Draft, key: str, value: Any) -> None:
    """Gradient checkpointing, perhaps with offloading."""
    draft.put(key, value, "trainer.activation_checkpointing", bool(value))
    if value == "offload":
        draft.values["trainer.activation_offloading"] = True


def attention(name: str) -> Rule:
    """An attention kernel that is on or off."""
    return lambda draft, key, value: (
        draft.put(key, value, "model.attn_implementation", name)
        if value in (True, name)
        else draft.same(key, value, "the model's own choice")
    )


# Transformers' own arguments, which LLaMA-Factory and TRL take as they are.
TRANSFORMERS: dict[str, Rule] = {
    "learning_rate": "trainer.learning_rate", "num_train_epochs": "trainer.num_train_epochs", "max_steps": max_steps,
    "per_device_train_batch_size": batch, "lr_scheduler_type": scheduler, "warmup_ratio": "trainer.warmup_ratio", "warmup_steps": warmup,
    "optim": optimizer, "weight_decay": "trainer.weight_decay", "adam_beta1": "trainer.adam_beta1", "adam_beta2": "trainer.adam_beta2",
    "adam_epsilon": "trainer.adam_epsilon", "max_grad_norm": "trainer.max_grad_norm",
    "label_smoothing_factor": "trainer.label_smoothing_factor",
    "bf16": precision("bf16"), "fp16": precision("fp16"), "tf32": precision("tf32"), "gradient_checkpointing": recomputation,
    "neftune_noise_alpha": "trainer.neftune_noise_alpha", "logging_steps": steps_of("trainer.logging_steps"),
    "eval_steps": steps_of("trainer.eval_steps"), "save_steps": steps_of("trainer.save_steps"),
    "save_total_limit": "trainer.save_total_limit",
    "load_best_model_at_end": "trainer.load_best_model_at_end", "report_to": report, "run_name": "name", "seed": "seed",
    "torch_compile": "trainer.torch_compile", "hub_model_id": "hub.repo_id", "hub_private_repo": "hub.private", "deepspeed": deepspeed,
    "fsdp": lambda draft, key, value: draft.choose(key, value, "hardware", "fsdp") if value else draft.same(key, value, "off"),
    "gradient_accumulation_steps": lambda draft, key, value: draft.same(key, value, "in `trainer.batch_size`"),
    "trust_remote_code": "model.trust_remote_code", "per_device_eval_batch_size": "eval.batch_size",
}  # fmt: skip
TRANSFORMERS_LEFT = {
    "output_dir": PLACES, "overwrite_output_dir": PLACES, "push_to_hub": "with `hub.repo_id` set the result is pushed",
    "eval_strategy": "by `trainer.eval_steps`", "save_strategy": "by `trainer.save_steps`",
    "evaluation_strategy": "by `trainer.eval_steps`",
    "gradient_checkpointing_kwargs": PACKAGES, "dataloader_num_workers": PACKAGES, "ddp_timeout": PACKAGES, "use_liger_kernel": PACKAGES,
    "resume_from_checkpoint": "the same command goes on by itself", "do_train": "`tune recipe=` trains",
    "do_eval": "measured unless `eval=none`",
    "fsdp_config": "see `tune explain hardware`", "save_only_model": "checkpoints resume here, always",
    "plot_loss": "the report has the curve",
    "group_by_length": "rows are laid end to end without padding here", "remove_unused_columns": PACKAGES,
    "hub_token": "tokens come from HF_TOKEN",
    "lr_scheduler_kwargs": STOCHASTIC, "metric_for_best_model": "the held-out loss decides here", "logging_first_step": QUIET,
}  # fmt: skip
_MORE = """lr_scheduler_kwargs optim_args optim_target_modules average_tokens_across_devices bf16_full_eval fp16_full_eval
activation_checkpointing_kwargs torch_compile_backend torch_compile_mode liger_kernel_config use_cache torch_empty_cache_steps
auto_find_batch_size logging_strategy log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica
disable_tqdm project trackio_space_id eval_delay prediction_loss_only eval_on_start eval_accumulation_steps batch_eval_metrics
save_on_each_node hub_strategy hub_always_push hub_revision greater_is_better ignore_data_skip full_determinism data_seed use_cpu
accelerator_config parallelism_config dataloader_drop_last dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
label_names length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_backend debug skip_memory_metrics
do_predict local_rank predict_with_generate logging_dir"""
TRANSFORMERS_KNOWN = frozenset(_MORE.split())
