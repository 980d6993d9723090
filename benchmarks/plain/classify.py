"""Classes of texts with Transformers and PEFT: `python -m benchmarks.plain.classify MODEL ROWS OUT longest|max_length BATCH RATE`."""

import json
import sys

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

from benchmarks.plain.settings import settings

model, rows, out, padding, batch, rate = sys.argv[1:]
with open(rows, encoding="utf-8") as stream:
    found = json.load(stream)
tokenizer = AutoTokenizer.from_pretrained(model)
whole = padding == "max_length"
cut = {"truncation": True, "max_length": 128 if whole else 256, "padding": "max_length" if whole else False}
sets = {
    name: Dataset.from_list(part).map(lambda b: tokenizer(b["text"], **cut), batched=True, remove_columns=["text"])
    for name, part in found["rows"].items()
}
torch.manual_seed(0)
base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(found["labels"]), dtype=torch.float32)
net = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"))
args = TrainingArguments(output_dir=out, **settings(batch, rate))
trainer = Trainer(
    net,
    args,
    train_dataset=sets["train"],
    eval_dataset=sets["dev"],
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"score": float((p.predictions.argmax(1) == p.label_ids).mean())},
)
took = trainer.train().metrics["train_runtime"]
print("FOUND", json.dumps({"seconds": took, "score": trainer.evaluate()["eval_score"]}))
