"""Likeness of texts with sentence-transformers and PEFT: `python -m benchmarks.plain.embed MODEL ROWS OUT longest BATCH RATE`."""

import json
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.losses import CoSENTLoss

from benchmarks.plain.settings import settings

model, rows, out, _, batch, rate = sys.argv[1:]
with open(rows, encoding="utf-8") as stream:
    found = json.load(stream)
torch.manual_seed(0)
net = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": torch.float32})
net.max_seq_length = 256
net.add_adapter(LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="FEATURE_EXTRACTION"))
args = SentenceTransformerTrainingArguments(output_dir=out, **settings(batch, rate))
sets = {name: Dataset.from_list(part) for name, part in found["rows"].items()}
trainer = SentenceTransformerTrainer(net, args, train_dataset=sets["train"], loss=CoSENTLoss(net))
took = trainer.train().metrics["train_runtime"]
dev = sets["dev"]
measure = EmbeddingSimilarityEvaluator(dev["sentence1"], dev["sentence2"], dev["score"], main_similarity="cosine", batch_size=int(batch))
print("FOUND", json.dumps({"seconds": took, "score": next(v for k, v in measure(net).items() if k.endswith("spearman_cosine"))}))
