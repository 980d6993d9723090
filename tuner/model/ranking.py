"""A cross-encoder: `of_pairs(tokenizer)` is what it learns, `lay_out(folder, 512)` makes a folder a model of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.model.objectives import Objective, of_labels
from tuner.schema.passages import Rerank

# What sentence_transformers.CrossEncoder reads beside weights and tokenizer: that it is one, of one number, which is made 0 to 1.
FILES: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}],
    "config_sentence_transformers.json": {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
        "prompts": {},
        "default_prompt_name": None,
    },
    "sentence_bert_config.json": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}


def of_pairs(tokenizer: PreTrainedTokenizerBase, *, lengths: Any = None) -> Objective:
    """Binary cross-entropy of how well a passage fits, as sentence-transformers' BinaryCrossEntropyLoss has it."""
    return of_labels(Rerank.head, Rerank.problem, tokenizer, outputs=1, lengths=lengths)


def lay_out(folder: Path, max_length: int) -> None:
    """Beside weights and tokenizer what makes them a CrossEncoder, which cuts pairs as they were cut in training."""
    for name, content in FILES.items():
        if name == "sentence_bert_config.json":
            content = content | {"processing_kwargs": {"text": {"max_length": max_length, "truncation": True}}}
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
