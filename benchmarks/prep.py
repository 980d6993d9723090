"""Prepares the same chat rows as we do and as TRL does: `python -m benchmarks.prep fast|huggingface|trl ROWS.jsonl MODEL OUT.npz`.

Timed is the preparation alone, imports and loading of the tokenizer left out: rows to token ids, loss masks and packs; with `fast` it holds
the loading and the check of the second tokenizer. Prints JSON {"wall_s", "cpu_s", "warm_s", "bytes_written", "rows", "tokens", "fill"}; ids
and masks go to OUT, so that they can be compared. `warm_s`: the same again, found done by the file's hash, or in the cache of `datasets`.
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


def written(folder: str) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def tune(rows: str, model: str, backend: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What the prepare stage of `task: sft` does, its audit and statistics included."""
    from transformers import AutoTokenizer

    from tuner.data.audit import audit, statistics
    from tuner.data.chat import end_of_turn, tokenize
    from tuner.data.fast import encoder_for
    from tuner.data.layout import read_all
    from tuner.data.load import read_rows
    from tuner.data.store import TokenRows, write_packs, write_rows
    from tuner.files import hashes
    from tuner.schema.data import Backend, Data
    from tuner.schema.task import Sft
    from tuner.worker import settle_memory

    tokenizer, task = AutoTokenizer.from_pretrained(model), Sft(max_length=MAX_LENGTH)
    found: dict[str, Any] = {}
    again: dict[str, Any] = {}
    settle_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with clock(found):
            hashes([rows])
            read = read_rows([rows], Data())
            _, examples, _ = read_all(read, Data(), place=read.place)
            encoder = encoder_for(examples, tokenizer, task, choice=Backend(backend), tell=print)
            tokens = list(tokenize(examples, tokenizer, task, encoder=encoder))
            audit(tokens, tokenizer, end_of_turn=end_of_turn(tokenizer))
            statistics(tokens)
            write_rows(folder, tokens)
            packs = write_packs(folder, [len(r.ids) for r in tokens], MAX_LENGTH)
        with clock(again):
            hashes([rows])
            TokenRows(folder)
        size = written(folder)
    total = sum(len(r.ids) for r in tokens)
    found |= {"warm_s": again["wall_s"], "bytes_written": size}
    found |= {"rows": len(tokens), "tokens": total, "fill": round(total / (len(packs) * MAX_LENGTH), 4)}
    return found, [r.ids for r in tokens], [r.trained for r in tokens]


def trl(rows: str, model: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """TRL's SFTTrainer on the same rows: its `_prepare_dataset` with masks and best-fit packing.

    Four times: unpacked for the comparison, packed (what is timed: rows in memory, nothing written), then twice from the file, as `trl sft`
    reads it, which fills the cache of `datasets` and finds everything there.
    """
    from datasets import Dataset, load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = MARKED
    tiny = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    )
    prepare, made, times = SFTTrainer._prepare_dataset, [], []

    def timed(self: Any, *args: Any, **options: Any) -> Any:
        taken: dict[str, Any] = {}
        with clock(taken):
            made.append(prepare(self, *args, **options))
        times.append(taken)
        return made[-1]

    SFTTrainer._prepare_dataset = timed
    values = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        memory = Dataset.from_list([{"messages": v["messages"]} for v in values])
        file = load_dataset("json", data_files=rows, split="train", cache_dir=folder)
        before = written(folder)
        for data, packing in ((memory, False), (memory, True), (file, True), (file, True)):
            config = SFTConfig(
                output_dir=folder, use_cpu=True, report_to="none", assistant_only_loss=True, packing=packing, max_length=MAX_LENGTH
            )
            SFTTrainer(model=tiny, args=config, train_dataset=data, processing_class=tokenizer)
        size = written(folder) - before
    plain, packed = made[:2]
    total = sum(map(len, plain["input_ids"]))
    found = times[1] | {"cold_from_file_s": times[2]["wall_s"], "warm_s": times[3]["wall_s"], "bytes_written": size}
    found |= {"rows": len(plain), "tokens": total, "fill": round(total / (len(packed) * MAX_LENGTH), 4)}
    return found, plain["input_ids"], [[label != -100 for label in row] for row in plain["labels"]]


def main() -> None:
    """Prepare, save, print."""
    side, rows, model, out = sys.argv[1:]
    found, ids, trained = trl(rows, model) if side == "trl" else tune(rows, model, side)
    flat = {"ids": np.concatenate([np.asarray(r) for r in ids]), "trained": np.concatenate([np.asarray(r) for r in trained])}
    np.savez(out, **flat)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
