"""One rank of a training whose rows tell their ids: `torchrun --nproc_per_node 2 ranks.py FOLDER STEPS`; writes FOLDER/ids-<rank>.jsonl."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

from tests.lab import tiny_model, tiny_tokenizer
from tuner.schema.adapter import Lora
from tuner.schema.trainer import Optim
from tuner.train.checkpoints import newest
from tuner.train.saving import Checkpoints, Writer
from tuner.train.trainer import TokenTrainer

ROWS, MICRO, GLOBAL = 40, 2, 8


class Told(TokenTrainer):
    """Notes the first token of each row, which is its id, with the step."""

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        with (Path(self.args.output_dir or "") / f"ids-{self.args.process_index}.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": self.state.global_step, "ids": inputs["input_ids"][:, 0].tolist()}) + "\n")
        return super().training_step(model, inputs, num_items_in_batch)


def main(folder: Path, steps: int) -> None:
    """Train to `steps` of 10, from the last checkpoint in the folder; print the world that this was."""
    set_seed(0)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model()), LoraConfig(r=2, target_modules="all-linear"))
    rows: Any = [{"rows": [{"input_ids": [i + 2, 5, 6, 7], "labels": [i + 2, 5, 6, 7]}]} for i in range(ROWS)]
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=10,
        per_device_train_batch_size=MICRO,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=3,
    )
    args.gradient_accumulation_steps = GLOBAL // (MICRO * args.world_size)
    args.max_steps = steps
    writer = Writer()
    trainer = Told(
        model=model,
        args=args,
        adapter=Lora(),
        optim=Optim.adamw_torch,
        rows=rows,
        eval_rows=None,
        tokenizer=tiny_tokenizer(),
        padding_free=False,
        callbacks=[Checkpoints(2, writer)],
    )
    trainer.writer = writer
    found = newest(folder, tell=print)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    writer.wait()
    sys.stdout.write(f"world {args.world_size}\n")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
