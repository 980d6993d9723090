"""Settings that all of these scripts train with: `TrainingArguments(output_dir=out, **settings(batch, rate))`."""

from typing import Any


def settings(batch: str, rate: str) -> dict[str, Any]:
    """One pass in fp32 on the CPU, each step logged, nothing saved."""
    size, curve = int(batch), {"learning_rate": float(rate), "lr_scheduler_type": "cosine", "warmup_steps": 2, "num_train_epochs": 1}
    quiet: dict[str, Any] = {"logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    return {"per_device_train_batch_size": size, "per_device_eval_batch_size": size, "use_cpu": True, "seed": 0} | curve | quiet
