"""LLaMA-Factory's YAML or JSON in our words: `lora_rank: 8` is `adapter.r: 8`, `stage: dpo` is `- task: dpo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.imports import common
from tuner.imports.draft import Draft, Peer, Rule, when

STAGES = {"sft": "sft", "pt": "pretrain", "rm": "reward", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}


def stage(draft: Draft, key: str, value: Any) -> None:
    """The task; of a preference stage the loss may be a task of its own."""
    loss = draft.config.get("pref_loss", "sigmoid")
    draft.choose(key, value, "task", loss if value == "dpo" and loss in ("orpo", "simpo") else STAGES.get(value, str(value)))


def loss(draft: Draft, key: str, value: Any) -> None:
    """A loss of DPO; `orpo` and `simpo` are tasks here."""
    if value in ("orpo", "simpo"):
        draft.same(key, value, "in `task`")
    elif value == "kto_pair":
        draft.leave(key, value, "`- task: kto` over single answers, or `task.loss_type: apo_zero`")
    else:
        draft.put(key, value, "task.loss_type", value)


def adapter(draft: Draft, key: str, value: Any) -> None:
    """LoRA, in 4 or 8 bits where the base is quantised, full, or OFT."""
    bits = draft.config.get("quantization_bit")
    if value == "freeze":
        draft.leave(key, value, "`- adapter: full` with `adapter.unfreeze` trains a part of the model")
    else:
        draft.choose(key, value, "adapter", "qlora" if bits and value == "lora" else value)


def bits(draft: Draft, key: str, value: Any) -> None:
    """4 and 8 bits."""
    if int(value or 4) == 8:
        draft.put(key, value, "adapter.quant", "int8")
    elif int(value or 4) == 4:
        draft.same(key, value, "qlora is 4-bit")
    else:
        draft.leave(key, value, "4 or 8 bits here; 4 are used")


def datasets(draft: Draft, key: str, value: Any) -> None:
    """Names of `dataset_info.json`, read where it lies; without it a name is a file of the folder."""
    names = [n.strip() for n in value.split(",")] if isinstance(value, str) else value
    found = {name: _source(draft, name) for name in names}
    shares = [p.strip() for p in str(draft.config.get("interleave_probs") or "").split(",") if p.strip()]
    if len(found) == 1:
        for ours, mine in next(iter(found.values())).items():
            draft.put(key, value, f"data.{ours}", mine)
        return
    if len(shares) == len(found):
        for source, share in zip(found.values(), shares, strict=True):
            source["weight"] = float(share)
    draft.put(key, value, "data.mix", {name.replace(".", "_").replace("/", "_"): source for name, source in found.items()})


def _source(draft: Draft, name: str) -> dict[str, Any]:
    folder = Path(draft.config.get("dataset_dir") or "data")
    table = folder / "dataset_info.json"
    about = json.loads(table.read_text(encoding="utf-8")).get(name) if table.is_file() else None
    if about is None:
        draft.notes.append(
            f"`{name}` is not in {table}: taken for {folder / (name + '.json')}; put right `data.path`, or `data.id` for a Hub set"
        )
        return {"path": str(folder / f"{name}.json")}
    source = {"id": about["hf_hub_url"]} if "hf_hub_url" in about else {"path": str(folder / about.get("file_name", f"{name}.json"))}
    named = {
        "prompt": "prompt",
        "response": "completion",
        "messages": "messages",
        "chosen": "chosen",
        "rejected": "rejected",
        "system": "system",
    }
    plain = {"prompt": "instruction", "response": "output", "messages": "conversations"}
    columns = {named[k]: v for k, v in about.get("columns", {}).items() if k in named and v not in (named[k], plain.get(k))}
    return source | ({"columns": columns} if columns else {})


def eval_dataset(draft: Draft, key: str, value: Any) -> None:
    """A file of held-out rows."""
    source = _source(draft, str(value).partition(",")[0])
    if "path" in source:
        draft.put(key, value, "data.eval_path", source["path"])
    else:
        draft.leave(key, value, "held-out rows are a file, or a split of the same set (`data.eval_split`)")


def attention(draft: Draft, key: str, value: Any) -> None:
    """`fa2`, `sdpa`."""
    names = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager"}
    draft.put(key, value, "model.attn_implementation", names[value]) if value in names else draft.same(key, value, "the model's own choice")


def tokens(draft: Draft, key: str, value: Any) -> None:
    """Names with commas."""
    draft.put(key, value, "model.add_tokens", [t.strip() for t in str(value).split(",")])


RULES: dict[str, Rule] = {
    **common.TRANSFORMERS, "model_name_or_path": "model.id", "model_revision": "model.revision", "stage": stage, "finetuning_type": adapter,
    "quantization_bit": bits, "quantization_type": "adapter.quant", "double_quantization": "adapter.double_quant", "lora_rank": "adapter.r",
    "lora_alpha": "adapter.lora_alpha", "lora_dropout": "adapter.lora_dropout", "lora_target": common.targets,
    "use_rslora": "adapter.use_rslora",
    "use_dora": "adapter.use_dora", "loraplus_lr_ratio": "adapter.loraplus_lr_ratio", "pissa_init": when("adapter.init_lora_weights",
    "pissa"),
    "additional_target": lambda draft, key, value: draft.put(key, value, "adapter.modules_to_save", [n.strip() for n in value.split(",")]),
    "adapter_name_or_path": "adapter.continue_from", "dataset": datasets, "eval_dataset": eval_dataset, "val_size": common.held_out,
    "cutoff_len": "task.max_length", "packing": "task.packing", "neat_packing": "task.packing", "train_on_prompt": when("task.loss_on",
    "all"),
    "mask_history": when("task.loss_on", "last_assistant"), "streaming": "data.streaming", "max_samples": "data.limit",
    "flash_attn": attention,
    "default_system": "data.system", "pref_beta": "task.beta", "pref_ftx": "task.sft_weight", "pref_loss": loss,
    "simpo_gamma": "task.margin",
    "dpo_label_smoothing": "task.label_noise", "kto_chosen_weight": "task.desirable_weight",
    "kto_rejected_weight": "task.undesirable_weight",
    "add_tokens": tokens, "add_special_tokens": tokens, "use_muon": when("trainer.optim", "muon"),
    "use_galore": when("trainer.optim", "galore_adamw"), "use_apollo": when("trainer.optim", "apollo_adamw"),
}  # fmt: skip
LEFT = {
    **common.TRANSFORMERS_LEFT,
    "template": "the model's own chat template is used, with all of it that is no answer masked; `tune preview` shows it",
    "dataset_dir": "in `data.path`", "overwrite_cache": common.CACHE, "preprocessing_num_workers": common.PACKAGES,
    "tokenized_path": common.CACHE,
    "interleave_probs": "weights of `data.mix`", "mix_strategy": "by the weights of `data.mix`; without them all rows of all",
    "use_unsloth": common.PACKAGES, "enable_liger_kernel": common.PACKAGES, "use_unsloth_gc": common.PACKAGES,
    "hf_hub_token": "tokens come from HF_TOKEN",
    "ref_model": "the model as it was before training is the reference", "reward_model": "PPO is not here",
    "use_swanlab": "trackers: wandb, trackio, tensorboard",
    "freeze_trainable_layers": "`adapter.unfreeze`", "use_badam": "no such optimizer here", "compute_accuracy": common.QUIET,
    "buffer_size": "`data.shuffle_rows`",
    "pure_bf16": "full fine-tuning keeps fp32 weights here, under bf16 autocast", "rope_scaling": "not changed here",
    "shift_attn": "not here",
}  # fmt: skip
_KNOWN = """adapter_folder cache_dir use_fast_tokenizer resize_vocab split_special_tokens new_special_tokens_config init_special_tokens
low_cpu_mem_usage mixture_of_depths moe_aux_loss_coef disable_gradient_checkpointing use_reentrant_gc upcast_layernorm upcast_lmhead_output
train_from_scratch infer_backend offload_folder use_kv_cache infer_dtype ms_hub_token om_hub_token print_param_status quantization_method
quantization_device_map fp8 fp8_backend image_max_pixels image_min_pixels video_max_pixels video_fps video_maxlen export_dir export_size
media_dir preprocessing_batch_size eval_num_beams ignore_pad_token_for_loss eval_on_each_dataset tool_format loraplus_lr_embedding
pissa_iter pissa_convert create_new_adapter module_dropout oft_rank oft_block_size oft_target pref_bco_weight ppo_buffer_size ppo_epochs
ppo_score_norm ppo_target ppo_whiten_rewards ref_model_adapters ref_model_quantization_bit reward_model_adapters reward_model_type ld_alpha
galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise apollo_target apollo_rank
apollo_update_interval apollo_scale badam_mode badam_switch_mode swanlab_project swanlab_run_name freeze_trainable_modules
freeze_extra_modules use_llama_pro use_adam_mini use_mca use_dft_loss freeze_vision_tower freeze_multi_modal_projector
freeze_language_model disable_shuffling early_stopping_steps include_effective_tokens_per_second ray_run_name ray_num_workers
resources_per_worker enable_thinking max_new_tokens temperature top_p"""
PEER = Peer(
    name="llamafactory", rules=RULES, left=LEFT, known=frozenset(_KNOWN.split()) | common.TRANSFORMERS_KNOWN,
    marks=frozenset({"stage", "finetuning_type", "cutoff_len", "template", "dataset", "lora_rank", "lora_target", "dataset_dir"}),
    implied={
        "finetuning_type": "lora", "lora_rank": 8, "cutoff_len": 2048, "learning_rate": 5e-5, "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0, "per_device_train_batch_size": 8,
    },
    unknown="LLaMA-Factory refuses to start",
)  # fmt: skip
