"""TRL's YAML (`trl sft --config x.yaml`) or a recorded command line in our words: `use_peft: true` is `- adapter: lora`."""

from __future__ import annotations

from typing import Any

from tuner.imports import common
from tuner.imports.draft import Draft, Peer, Rule, is_file, when
from tuner.schema.preferences import Preference
from tuner.schema.rewarded import PolicyLoss

TASK = "trl"  # the word after `trl`, put into the config by read.py
LOSSES = {"simpo": "simpo"}
REWARDS = {"accuracy_reward": "numeric", "reasoning_accuracy_reward": "numeric"}


def task(draft: Draft, key: str, value: Any) -> None:
    """The command: `sft`, `dpo`, `kto`, `reward`, `grpo`."""
    draft.choose(key, value, "task", str(value))


def peft(draft: Draft, key: str, value: Any) -> None:
    """LoRA, over a quantised base where it is; else the whole model."""
    quantised = draft.config.get("load_in_4bit") or draft.config.get("load_in_8bit")
    draft.choose(key, value, "adapter", ("qlora" if quantised else "lora") if value else "full")


def dataset(draft: Draft, key: str, value: Any) -> None:
    """A Hub set or a file."""
    draft.put(key, value, "data.path" if is_file(value) else "data.id", value)


def datasets(draft: Draft, key: str, value: Any) -> None:
    """A mixture."""
    found = []
    for item in value:
        source = {"path" if is_file(item["path"]) else "id": item["path"]}
        found.append(source | {ours: item[k] for k, ours in {"name": "config", "split": "split"}.items() if item.get(k)})
    if len(found) == 1:
        for ours, mine in found[0].items():
            draft.put(key, value[0]["path"], f"data.{ours}", mine)
    else:
        draft.put(key, f"{len(found)} sources", "data.mix", {f"source{i + 1}": s for i, s in enumerate(found)})


def test_split(draft: Draft, key: str, value: Any) -> None:
    """A split of the same Hub set."""
    draft.put(key, value, "data.eval_split", value)


def completion(draft: Draft, key: str, value: Any) -> None:
    """The longest sampled answer; elsewhere the whole row counts."""
    if draft.options.get("task") in common.REWARDED:
        draft.put(key, value, "task.max_completion_length", value)
    else:
        draft.leave(key, value, "`task.max_length` holds for the whole row")


def sampled(draft: Draft, key: str, value: Any) -> None:
    """How answers are sampled and compared, where some are."""
    if draft.options.get("task") in common.REWARDED:
        value = {True: "group", False: "none"}.get(value, value) if key == "scale_rewards" else value
        draft.put(key, value, f"task.{key}", value)
    else:
        draft.leave(key, value, "nothing is sampled in training")


def rewards(draft: Draft, key: str, value: Any) -> None:
    """Reward functions: that of right answers is `numeric`; others are Python."""
    names = value if isinstance(value, list) else str(value).split()
    weights = draft.config.get("reward_weights") or [1.0] * len(names)
    known = {REWARDS[name]: float(weight) for name, weight in zip(names, weights, strict=False) if name in REWARDS}
    if known:
        draft.put(key, value, "task.rewards", known)
    if others := [name for name in names if name not in REWARDS]:
        draft.leave(key, ", ".join(others), "write it with `@reward` (tuner.extend), and name it in `task.rewards`")


def reward_model(draft: Draft, key: str, value: Any) -> None:
    """A reward model."""
    draft.put(key, value, "task.reward_model", value)
    draft.values["task.rewards"] = {**draft.values.get("task.rewards", {}), "model": 1.0}


def loss(draft: Draft, key: str, value: Any) -> None:
    """A loss of DPO; of SFT only the plain one."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    losses: dict[str, list[str]] = {"dpo": [*Preference], "grpo": [*PolicyLoss]}
    known = losses.get(draft.options.get("task", ""), [])
    if isinstance(value, list):
        draft.leave(
            key, value, "several losses at once are not added up here; `task.loss_type` takes one, and `task.sft_weight` adds SFT's"
        )
    elif value in known:
        draft.put(key, value, "task.loss_type", value)
    elif value == "nll":
        draft.same(key, value, "the default")
    elif known:
        draft.leave(key, value, f"no such loss here: {', '.join(known)}; the default is used")
    else:
        draft.leave(key, value, "the plain loss is used")


def smoothing(draft: Draft, key: str, value: Any) -> None:
    """The share of wrong preferences."""
    draft.put(key, value, "task.label_noise", value)


RULES: dict[str, Rule] = {
    TASK: task, **common.TRANSFORMERS, "model_name_or_path": "model.id", "model_revision": "model.revision", "dtype": "model.dtype",
    "torch_dtype": "model.dtype", "attn_implementation": "model.attn_implementation", "use_peft": peft, "lora_r": "adapter.r",
    "lora_alpha": "adapter.lora_alpha", "lora_dropout": "adapter.lora_dropout", "lora_target_modules": common.targets,
    "lora_modules_to_save": "adapter.modules_to_save", "use_rslora": "adapter.use_rslora", "use_dora": "adapter.use_dora",
    "load_in_4bit": lambda draft, key, value: draft.same(key, value, "qlora is 4-bit" if value else "off"),
    "load_in_8bit": when("adapter.quant", "int8"), "bnb_4bit_quant_type": "adapter.quant", "use_bnb_nested_quant": "adapter.double_quant",
    "dataset_name": dataset, "dataset_config": "data.config", "dataset_train_split": "data.split", "dataset_test_split": test_split,
    "dataset_streaming": "data.streaming", "streaming": "data.streaming", "datasets": datasets, "test_split_size": common.held_out,
    "max_length": "task.max_length", "max_seq_length": "task.max_length", "packing": "task.packing",
    "assistant_only_loss": when("task.loss_on", "assistant"), "completion_only_loss": when("task.loss_on", "last_assistant"),
    "chat_template_path": "model.chat_template", "loss_type": loss, "beta": "task.beta", "label_smoothing": smoothing,
    "desirable_weight": "task.desirable_weight", "undesirable_weight": "task.undesirable_weight", "cpo_alpha": "task.sft_weight",
    "max_completion_length": completion, "num_generations": sampled, "temperature": sampled, "scale_rewards": sampled,
    "reward_funcs": rewards, "reward_model_name_or_path": reward_model, "simpo_gamma": "task.margin",
    "activation_offloading": "trainer.activation_offloading",
}  # fmt: skip
NO_CLIP = "answers are learned from once, by the model that said them: nothing is clipped"
ENGINE = "sampling is Transformers' `generate` here"
LEFT = {
    **common.TRANSFORMERS_LEFT, "dataset_num_proc": common.PACKAGES, "padding_free": "where the model supports it, always",
    "eos_token": "the model's own",
    "precompute_ref_log_probs": "the reference is computed once here, always", "eval_packing": "held-out rows are never packed",
    "packing_strategy": "the fullest rows, no conversation cut", "dataset_text_field": "`data.columns: {text: NAME}`",
    "pad_token": "the model's own",
    "truncation_mode": "cut at the end here", "max_prompt_length": "`task.max_length` holds for the whole row",
    "shuffle_dataset": "by `seed`, always",
    "reward_weights": "with `reward_funcs`", "num_iterations": "each answer is learned from once", "epsilon": NO_CLIP,
    "epsilon_high": NO_CLIP,
    "steps_per_generation": "answers are sampled for each step", "generation_batch_size": "answers are sampled for each step",
    "use_vllm": ENGINE, "vllm_mode": ENGINE, "vllm_gpu_memory_utilization": ENGINE, "mask_truncated_completions": "not here",
    "center_rewards_coefficient": "not here",
    "model_init_kwargs": "see `tune explain model`",
    "lora_task_type": "by the task", "ld_alpha": "not here", "sync_ref_model": "the reference stays",
}  # fmt: skip
_KNOWN = """dataset_kwargs pad_to_multiple_of router_aux_loss_coef disable_dropout precompute_ref_batch_size loss_weights f_divergence_type
f_alpha_divergence_coef use_weighting discopop_tau ref_model_mixup_alpha ref_model_sync_steps train_sampling_strategy lora_target_parameters
bnb_4bit_quant_storage ignore_bias_buffers num_generations generation_batch_size steps_per_generation temperature top_p top_k min_p
generation_kwargs repetition_penalty use_vllm vllm_mode vllm_gpu_memory_utilization num_iterations epsilon epsilon_high reward_weights
scale_rewards mask_truncated_completions log_completions num_completions_to_print reward_model_name_or_path reward_funcs config
padding_value generate_during_eval is_encoder_decoder"""
PEER = Peer(
    name="trl", rules=RULES, left=LEFT, known=frozenset(_KNOWN.split()) | common.TRANSFORMERS_KNOWN,
    marks=frozenset({"dataset_name", "use_peft", "max_length", "lora_r", "dataset_train_split", "load_in_4bit", "beta", TASK}),
    implied={
        "use_peft": False, "num_train_epochs": 3.0, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "per_device_train_batch_size": 8,
        "learning_rate": 2e-5, "lora_dropout": 0.05, "gradient_checkpointing": True,
    },
    unknown="TRL refuses to start",
)  # fmt: skip
