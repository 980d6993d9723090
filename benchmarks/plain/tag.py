"""Named entities with Transformers and PEFT: `python -m benchmarks.plain.tag MODEL ROWS OUT longest BATCH RATE`."""

import json
import sys

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from seqeval.metrics import f1_score
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, Trainer, TrainingArguments

from benchmarks.plain.settings import settings

model, rows, out, _, batch, rate = sys.argv[1:]
with open(rows, encoding="utf-8") as stream:
    found = json.load(stream)
names = found["labels"]
tokenizer = AutoTokenizer.from_pretrained(model)


def coded(examples):  # type: ignore[no-untyped-def]
    made = tokenizer(examples["tokens"], truncation=True, max_length=256, is_split_into_words=True)
    made["labels"] = []
    for index, tags in enumerate(examples["tags"]):
        words, before, labels = made.word_ids(index), None, []
        for word in words:
            labels.append(-100 if word is None or word == before else names.index(tags[word]))
            before = word
        made["labels"].append(labels)
    return made


def score(predicted):  # type: ignore[no-untyped-def]
    pairs = list(zip(predicted.predictions.argmax(2), predicted.label_ids, strict=True))
    said = [[names[a] for a, b in zip(p, q, strict=True) if b != -100] for p, q in pairs]
    wanted = [[names[b] for b in q if b != -100] for _, q in pairs]
    return {"score": float(f1_score(wanted, said))}


sets = {n: Dataset.from_list(part).map(coded, batched=True, remove_columns=["tokens", "tags"]) for n, part in found["rows"].items()}
torch.manual_seed(0)
base = AutoModelForTokenClassification.from_pretrained(model, num_labels=len(names), dtype=torch.float32)
net = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=["query", "key", "value", "dense"], task_type="TOKEN_CLS"))
args = TrainingArguments(output_dir=out, **settings(batch, rate))
parts = {"train_dataset": sets["train"], "eval_dataset": sets["dev"], "data_collator": DataCollatorForTokenClassification(tokenizer)}
trainer = Trainer(net, args, compute_metrics=score, **parts)
took = trainer.train().metrics["train_runtime"]
print("FOUND", json.dumps({"seconds": took, "score": trainer.evaluate()["eval_score"]}))
