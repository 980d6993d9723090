"""Prepares the same chat rows as we do and as TRL does: `python -m benchmarks.prep tune|trl ROWS.jsonl MODEL OUT.npz`.

Timed is the preparation alone, imports and loading of the tokenizer left out: rows to token ids, loss masks and packs. Prints JSON
{"wall_s", "cpu_s", "rows", "tokens", "fill"}; ids and masks go to OUT, so that the two can be compared.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_LENGTH = 1024
# SmolLM2's ChatML with the blocks that TRL needs; it writes the same text.
MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@contextmanager
def clock(found: dict[str, Any]) -> Iterator[None]:
    """Adds the seconds of the block, of this process and its children."""

    def cpu() -> float:
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    wall, used = time.perf_counter(), cpu()
    yield
    found |= {"wall_s": round(time.perf_counter() - wall, 3), "cpu_s": round(cpu() - used, 3)}


def tune(rows: str, model: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What the prepare stage of `task: sft` does, its audit and statistics included."""
    from transformers import AutoTokenizer

    from tuner.data.audit import audit, statistics
    from tuner.data.chat import end_of_turn, tokenize
    from tuner.data.layout import read_all
    from tuner.data.load import read_rows
    from tuner.data.store import write_packs, write_rows
    from tuner.schema.data import Data
    from tuner.schema.task import Sft

    tokenizer = AutoTokenizer.from_pretrained(model)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, clock(found):
        read = read_rows([rows], Data())
        _, examples, _ = read_all(read, Data(), place=read.place)
        tokens = list(tokenize(examples, tokenizer, Sft(max_length=MAX_LENGTH)))
        audit(tokens, tokenizer, end_of_turn=end_of_turn(tokenizer))
        statistics(tokens)
        write_rows(Path(folder), tokens)
        packs = write_packs(Path(folder), [len(r.ids) for r in tokens], MAX_LENGTH)
    total = sum(len(r.ids) for r in tokens)
    found |= {"rows": len(tokens), "tokens": total, "fill": round(total / (len(packs) * MAX_LENGTH), 4)}
    return found, [r.ids for r in tokens], [r.trained for r in tokens]


def trl(rows: str, model: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """TRL's SFTTrainer on the same rows: its `_prepare_dataset` with masks and best-fit packing, then again unpacked for the comparison."""
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = MARKED
    tiny = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    )
    found: dict[str, Any] = {}
    prepare, made = SFTTrainer._prepare_dataset, []

    def timed(self: Any, *args: Any, **options: Any) -> Any:
        with clock(found):
            made.append(prepare(self, *args, **options))
        return made[-1]

    SFTTrainer._prepare_dataset = timed
    values = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        for packing in (False, True):
            config = SFTConfig(
                output_dir=folder, use_cpu=True, report_to="none", assistant_only_loss=True, packing=packing, max_length=MAX_LENGTH
            )
            data = Dataset.from_list([{"messages": v["messages"]} for v in values])
            SFTTrainer(model=tiny, args=config, train_dataset=data, processing_class=tokenizer)
    plain, packed = made
    total = sum(map(len, plain["input_ids"]))
    found |= {"rows": len(plain), "tokens": total, "fill": round(total / (len(packed) * MAX_LENGTH), 4)}
    return found, plain["input_ids"], [[label != -100 for label in row] for row in plain["labels"]]


def main() -> None:
    """Prepare, save, print."""
    side, rows, model, out = sys.argv[1:]
    found, ids, trained = {"tune": tune, "trl": trl}[side](rows, model)
    flat = {"ids": np.concatenate([np.asarray(r) for r in ids]), "trained": np.concatenate([np.asarray(r) for r in trained])}
    np.savez(out, **flat)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
