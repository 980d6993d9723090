"""The fast CPU path: the rows of a batch flattened into one sequence, and a loss that scores labelled positions only.

    packed.register()                                   # once, before the model is loaded
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=packed.ATTENTION)
    batch = packed.flatten([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, ...])
    loss = packed.forward_loss(model, batch, num_items=2)

No padding is computed, attention never crosses a row, and the head (a third of a small model's work) skips the prompt.
Shapes: T tokens in the flattened batch, S rows, N labelled positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tuner.model.kernels import flash_rows, labelled_loss, row_attention

ATTENTION = "varlen_sdpa"
IGNORE = -100
ROWS = 64  # places for rows in a batch of fixed shape

# Settings of a model configuration that change the logits, the loss or the attention in a way that is not computed here.
_UNSUPPORTED_SETTINGS = {
    "final_logit_softcapping": "it caps its logits",
    "attn_logit_softcapping": "it caps its attention scores",
    "logits_scaling": "it scales its logits",
    "logit_scale": "it scales its logits",
    "sliding_window": "it attends within a sliding window",
    "output_router_logits": "its loss has a router term",
    "is_encoder_decoder": "it is an encoder-decoder",
}


def register() -> None:
    """Makes `attn_implementation="varlen_sdpa"` known to transformers. Without `cu_seq_lens_q` it is `sdpa`, so `generate()` works."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def supported(model: nn.Module) -> str | None:
    """Why `forward_loss` would not equal the model's own loss ("it caps its logits"), or None when it may be used.

    `model` is a causal language model, as loaded or wrapped by PEFT. Wrapped by DDP or FSDP it is called as `score_in_forward` has it,
    because `forward_loss` calls the transformer below the wrapper.
    """
    causal = _causal_lm(model)
    if not isinstance(causal, PreTrainedModel):
        return f"it is wrapped in {type(causal).__name__}"
    if not causal._supports_attention_backend or not causal._supports_sdpa:
        return "its attention cannot be replaced"
    if causal._is_stateful:
        return "it carries a recurrent state from row to row"
    if causal.config._attn_implementation != ATTENTION:
        return f"it was loaded with attn_implementation={causal.config._attn_implementation}"
    settings = causal.config.get_text_config().to_dict()
    for name, reason in _UNSUPPORTED_SETTINGS.items():
        if settings.get(name) not in (None, False, 1, 1.0):
            return f"{reason} ({name})"
    head: Any = causal.get_output_embeddings()
    if type(head) is not nn.Linear:
        return f"its head is {type(head).__name__}, not a plain linear layer"
    if "bias" in dict(head.named_parameters()):
        return "its head has a bias"
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return "its adapter prepends tokens"
    return None


def flatten(rows: Sequence[Mapping[str, Sequence[int]]], *, total: int | None = None) -> dict[str, Any]:
    """Collates tokenized rows (`input_ids`, and `labels` aligned with them, -100 where nothing is learned) into one sequence.

    Returns `input_ids`, `labels`, `position_ids` [1, T], `cu_seq_lens_q` and `cu_seq_lens_k` [S + 1] (int32, where each row starts,
    and T), `max_length_q` and `max_length_k`: the keyword arguments that transformers takes for flash attention. The first label of
    a row is masked, as no token of its row predicts it; so the usual shift by one is right across row boundaries as well.

    With `total` all shapes are the same from batch to batch: a row that teaches nothing fills up to so many tokens, and starts are
    repeated up to a multiple of ROWS.
    """
    if total is not None:
        filler = total - sum(len(row["input_ids"]) for row in rows)
        rows = [*rows, {"input_ids": [0] * filler, "labels": [IGNORE] * filler}] if filler else rows
    lengths = [len(row["input_ids"]) for row in rows]
    bounds = [0, *accumulate(lengths)]
    if total is not None:
        bounds += [total] * (-len(bounds) % ROWS)
    starts = torch.tensor(bounds, dtype=torch.int32)
    labels = [label for row in rows for label in (IGNORE, *row["labels"][1:])]
    positions = [position for length in lengths for position in range(length)]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": total or max(lengths),
        "max_length_k": total or max(lengths),
    }


def forward_loss(model: nn.Module, batch: Mapping[str, Any], num_items: int | Tensor, *, smoothing: float = 0.0) -> Tensor:
    """The loss of a causal language model on a batch from `flatten`: cross-entropy summed over labelled tokens, divided by `num_items`.

    `num_items` counts the labelled tokens of the whole optimizer step (all micro-batches), as in transformers' Trainer. Equals
    `model(input_ids, labels, num_items_in_batch)` row by row. Works for adapters and for full fine-tuning; see `supported`.
    """
    causal = _causal_lm(model)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    # transformers hands a 4-D mask through as it is: an empty one stops it from building a [1, 1, T, T] mask that nobody reads.
    no_mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=batch["input_ids"].device)
    hidden = causal.base_model(**inputs, attention_mask=no_mask, use_cache=False).last_hidden_state[0, :-1]  # [T - 1, H]
    targets = batch["labels"][0, 1:]
    labelled = (targets != IGNORE).nonzero().squeeze(1)
    weight = causal.get_output_embeddings().weight
    device = weight.device.type
    if torch.is_autocast_enabled(device):  # it does not reach into labelled_loss, whose gradient is made by hand
        hidden, weight = hidden.to(torch.get_autocast_dtype(device)), weight.to(torch.get_autocast_dtype(device))
    return labelled_loss(hidden[labelled], weight, targets[labelled], num_items, smoothing)


def score_in_forward(model: Any) -> None:
    """Let `model(**batch, num_items=n)` be `forward_loss`: wrappers around the model (DDP, FSDP, autocast) then do their part."""
    plain = model.forward

    def forward(*args: Any, num_items: int | Tensor | None = None, smoothing: float = 0.0, **batch: Any) -> Any:
        return plain(*args, **batch) if num_items is None else forward_loss(model, batch, num_items, smoothing=smoothing)

    model.forward = forward


def _causal_lm(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapper (its adapter layers are in place), or `model` itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row: query [1, heads, T, D], key and value [1, kv_heads, T, D] -> [1, T, heads, D]."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if query.device.type == "cuda" and query.dtype is not torch.float32 and not dropout:
        out = flash_rows(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), cu_seq_lens_q, max_length_q, scaling)
        return out.unsqueeze(0), None
    lengths = [length for length in cu_seq_lens_q.diff().tolist() if length]
    out = row_attention(query[0], key[0], value[0], lengths, dropout, scaling)
    return out.transpose(0, 1).unsqueeze(0).contiguous(), None
