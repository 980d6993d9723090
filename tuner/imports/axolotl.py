"""axolotl's YAML in our words: `lora_r: 32` is `adapter.r: 32`, `datasets` are `data`, `rl: dpo` is `- task: dpo`."""

from __future__ import annotations

from typing import Any

from tuner.imports import common
from tuner.imports.draft import Draft, Peer, Rule, is_file, to, when

SHAPES = {"alpaca": "alpaca", "sharegpt": "sharegpt"}
FIELDS = {"field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected", "field_completion": "completion"}
FIELDS |= {"field_instruction": "prompt", "field_output": "completion", "field_label": "label"}
RL = {"dpo": "dpo", "ipo": "dpo", "orpo": "orpo", "kto": "kto", "simpo": "simpo", "grpo": "grpo"}


def datasets(draft: Draft, key: str, value: Any) -> None:
    """One source as `data`, several as `data.mix`."""
    found = [_source(draft, f"{key}.{i}", item) for i, item in enumerate(value)]
    if len(found) == 1:
        for ours, mine in found[0].items():
            draft.put(key, value[0].get("path"), f"data.{ours}", mine)
    else:
        mix = {f"source{i + 1}": source for i, source in enumerate(found)}
        draft.put(key, f"{len(mix)} sources", "data.mix", mix)


def _source(draft: Draft, key: str, item: dict[str, Any]) -> dict[str, Any]:
    path, kind = item.get("data_files") or item["path"], item.get("type")
    path = path[0] if isinstance(path, list) else path
    found: dict[str, Any] = {"path" if is_file(path) else "id": path}
    for theirs, ours in {"name": "config", "split": "split", "revision": "revision"}.items():
        if item.get(theirs) and "id" in found:
            found[ours] = item[theirs]
    fields = dict(kind) if isinstance(kind, dict) else {}
    columns = {ours: fields[theirs] for theirs, ours in FIELDS.items() if isinstance(fields.get(theirs), str)}
    if item.get("field_messages") not in (None, "messages", "conversations"):
        columns["messages"] = item["field_messages"]
    if kind == "completion" and item.get("field", "text") != "text":
        columns["text"] = item["field"]
    if kind in ("completion", "pretrain"):
        draft.choose(f"{key}.type", kind, "task", "pretrain")
    if columns:
        found["columns"] = columns
    plain = {"path", "data_files", "ds_type", "type", "name", "split", "revision", "field_messages", "field", "message_property_mappings"}
    for theirs in sorted(set(item) - plain):
        draft.leave(f"{key}.{theirs}", item[theirs], "rows are recognised by their columns here: `data.columns`, `data.transforms`")
    return found


def test_datasets(draft: Draft, key: str, value: Any) -> None:
    """Held-out rows: a file, or another split of the same Hub set."""
    path = value[0].get("data_files") or value[0]["path"]
    path = path[0] if isinstance(path, list) else path
    if is_file(path):
        draft.put(key, path, "data.eval_path", path)
    elif value[0].get("split"):
        draft.put(key, path, "data.eval_split", value[0]["split"])
    else:
        draft.leave(key, path, "held-out rows are a file (`data.eval_path`) or a split of the same set (`data.eval_split`)")


def adapter(draft: Draft, key: str, value: Any) -> None:
    """LoRA, QLoRA or none, which is full fine-tuning."""
    if value in ("lora", "qlora"):
        quantised = value == "qlora" or draft.config.get("load_in_8bit") or draft.config.get("load_in_4bit")
        draft.choose(key, value, "adapter", "qlora" if quantised else "lora")
    elif not value:
        draft.choose(key, value, "adapter", "full")
    else:
        draft.leave(key, value, "no such adapter here: `tune ls adapter`")


def rl(draft: Draft, key: str, value: Any) -> None:
    """A preference task."""
    draft.choose(key, value, "task", RL.get(value, str(value)))
    if value == "ipo":
        draft.put(key, value, "task.loss_type", "ipo")


def wandb(draft: Draft, key: str, value: Any) -> None:
    """A project of Weights & Biases."""
    if value:
        draft.choose(key, value, "tracking", "wandb")
        draft.put(key, value, "tracking.project", value)
    else:
        draft.same(key, value, "off")


def template(draft: Draft, key: str, value: Any) -> None:
    """The model's own template, or text; a template by name is not there."""
    if str(value).startswith("tokenizer_default"):
        draft.same(key, value, "the model's own template is the default")
    elif value != "jinja":
        draft.leave(key, value, "templates have no names here: the model's own is used, or `model.chat_template`, a Jinja text or file")
    else:
        draft.same(key, value, "see chat_template_jinja")


RULES: dict[str, Rule] = {
    **{k: common.TRANSFORMERS[k] for k in ("learning_rate", "max_steps", "warmup_ratio", "warmup_steps", "weight_decay", "adam_beta1",
    "adam_beta2")},
    **{k: common.TRANSFORMERS[k] for k in ("adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32", "gradient_checkpointing",
    "deepspeed", "seed")},
    **{k: common.TRANSFORMERS[k] for k in ("neftune_noise_alpha", "logging_steps", "eval_steps", "save_steps", "save_total_limit")},
    **{k: common.TRANSFORMERS[k] for k in ("load_best_model_at_end", "torch_compile", "hub_model_id", "trust_remote_code", "fsdp")},
    "gradient_accumulation_steps": common.TRANSFORMERS["gradient_accumulation_steps"],
    "base_model": "model.id", "revision_of_model": "model.revision", "datasets": datasets, "test_datasets": test_datasets,
    "pretraining_dataset": lambda draft, key, value: datasets(draft, key, value if isinstance(value, list) else [{"path": value,
    "type": "pretrain"}]),
    "val_set_size": common.held_out, "sequence_len": "task.max_length", "sample_packing": "task.packing", "adapter": adapter, "rl": rl,
    "load_in_4bit": lambda draft, key, value: draft.same(key, value, "in `adapter`: qlora is 4-bit" if value else "off"),
    "load_in_8bit": when("adapter.quant", "int8"), "lora_r": "adapter.r", "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "lora_target_modules": common.targets, "lora_target_linear": when("adapter.target_modules", "all-linear"),
    "lora_modules_to_save": "adapter.modules_to_save", "peft_use_dora": "adapter.use_dora", "peft_use_rslora": "adapter.use_rslora",
    "peft_layers_to_transform": "adapter.layers_to_transform", "loraplus_lr_ratio": "adapter.loraplus_lr_ratio",
    "lora_model_dir": "adapter.continue_from", "unfrozen_parameters": "adapter.unfreeze",
    "micro_batch_size": common.batch, "num_epochs": "trainer.num_train_epochs", "optimizer": common.optimizer,
    "lr_scheduler": common.scheduler,
    "train_on_inputs": when("task.loss_on", "all"), "chat_template": template, "chat_template_jinja": "model.chat_template",
    "default_system_message": "data.system", "tokens": "model.add_tokens", "flash_attention": common.attention("flash_attention_2"),
    "eager_attention": common.attention("eager"), "sdp_attention": common.attention("sdpa"),
    "early_stopping_patience": "trainer.early_stopping_patience",
    "wandb_project": wandb,
    "wandb_name": to("name", lambda value: str(value) or None), "use_tensorboard": lambda draft, key, value: common.report(draft, key,
    "tensorboard"),
    "rl_beta": "task.beta", "dpo_beta": "task.beta", "orpo_alpha": "task.beta", "simpo_gamma": "task.margin",
    "rpo_alpha": "task.sft_weight",
    "kto_desirable_weight": "task.desirable_weight", "kto_undesirable_weight": "task.undesirable_weight",
    "reward_model": lambda draft, key, value: draft.choose(key, value, "task", "reward") if value else draft.same(key, value, "off"),
    "num_labels": lambda draft, key, value: draft.same(key, value, "a reward model has one number"),
}  # fmt: skip
LEFT = {
    **{k: common.TRANSFORMERS_LEFT[k] for k in ("output_dir", "group_by_length", "save_only_model", "resume_from_checkpoint",
    "remove_unused_columns")},
    **{k: common.TRANSFORMERS_LEFT[k] for k in ("save_strategy", "eval_strategy", "gradient_checkpointing_kwargs", "fsdp_config",
    "dataloader_num_workers")},
    "batch_size": "in `trainer.batch_size`", "dataset_prepared_path": common.CACHE,
    "pad_to_sequence_len": "rows are laid end to end here, without padding",
    "eval_sample_packing": "held-out rows are never packed", "evals_per_epoch": "in steps here: `trainer.eval_steps`",
    "saves_per_epoch": "in steps here: `trainer.save_steps`", "special_tokens": "the model's own tokens stay; new ones: `model.add_tokens`",
    "strict": "a wrong key is always an error here", "plugins": "no code in a recipe",
    "shuffle_merged_datasets": "rows are always shuffled, by `seed`",
    "model_type": "found from the model", "tokenizer_type": "found from the model", "xformers_attention": common.PACKAGES,
    "wandb_entity": "WANDB_ENTITY in the environment", "wandb_watch": "not watched", "wandb_log_model": "published by `hub.*`",
    "wandb_run_id": "not kept",
    "ddp": "several devices: `- hardware: ddp`", "debug": "`debug=fast` on the command line",
    "eval_batch_size": "`eval.batch_size`, chosen by itself",
    "sequence_parallel_degree": "`- hardware: sequence_parallel`", "trl": "GRPO's settings stand in `task`",
    "auto_resume_from_checkpoints": "always",
}  # fmt: skip
_KNOWN = """base_model_config cls_model_config tokenizer_config tokenizer_use_fast tokenizer_legacy processor_type hub_strategy
save_safetensors lora_fan_in_fan_out lora_target_parameters peft_layers_pattern peft peft_layer_replication peft_init_lora_weights gptq
bnb_config_kwargs loraplus_lr_embedding merge_lora lora_on_cpu qlora_sharded_model_loading relora relora_steps embedding_lr optim_args
optim_target_modules lr_scheduler_kwargs cosine_min_lr_ratio cosine_constant_lr_ratio lr_groups auto_find_batch_size use_wandb wandb_mode
use_mlflow mlflow_tracking_uri mlflow_experiment_name use_comet comet_project_name use_ray ray_num_workers lisa_n_layers
resize_token_embeddings_to_32x vllm qat quantization process_reward_model dpo_use_weighting dataset_shard_num skip_prepare_dataset
dataset_processes dataset_exact_deduplication dataset_keep_in_memory dataloader_pin_memory dataloader_prefetch_factor accelerator_config
push_dataset_to_hub hf_use_auth_token device_map world_size local_rank ddp_timeout ddp_bucket_cap_mb eval_table_size eval_max_new_tokens
do_causal_lm_eval eval_causal_lm_metrics do_bench_eval metric_for_best_model greater_is_better loss_watchdog_threshold
loss_watchdog_patience gc_steps fp8 bfloat16 float16 float32 min_sample_len max_prompt_len sample_packing_group_size
sample_packing_bin_size curriculum_sampling batch_flattening use_pose s2_attention flex_attention flash_attn_cross_entropy
flash_attn_rms_norm flash_attn_fuse_qkv flash_attn_fuse_mlp unsloth_lora_mlp unsloth_lora_qkv lora_mlp_kernel lora_qkv_kernel
lora_o_kernel added_tokens_overrides torch_compile_backend profiler_steps cpo_alpha max_memory gpu_memory_limit low_cpu_mem_usage
eot_tokens fix_untrained_tokens is_llama_derived_model is_mistral_derived_model liger_rope liger_rms_norm liger_glu_activation
liger_fused_linear_cross_entropy evaluation_strategy noisy_embedding_alpha image_size"""
PEER = Peer(
    name="axolotl", rules=RULES, left=LEFT, known=frozenset(_KNOWN.split()), implied={"sequence_len": 512, "micro_batch_size": 1,
    "adapter": None},
    marks=frozenset({"base_model", "sequence_len", "micro_batch_size", "num_epochs", "sample_packing", "val_set_size", "adapter",
    "optimizer"}),
    unknown="axolotl ignores it in silence",
)  # fmt: skip
