"""How a model that writes is served: `settings(tokenizer)`, greedy, ending where turns end."""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedTokenizerBase

from tuner.data.chat import stop_marks


def settings(tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int | None = None) -> GenerationConfig:
    """Greedy decoding that stops where the template ends a turn; saved with the result, so that whoever serves it does the same."""
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False, eos_token_id=stop_ids(tokenizer), pad_token_id=pad, max_new_tokens=max_new_tokens, use_cache=True
    )


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer: the tokenizer's own end, and the template's marks that are one token each."""
    marks = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in (stop_marks(tokenizer) if tokenizer.chat_template else ())]
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return sorted({*own, *(ids[0] for ids in marks if len(ids) == 1)})
