"""What PyTorch and PEFT leave slow, in plain PyTorch: the loss of labelled positions, attention within rows, a LoRA layer in one function.

    loss = labelled_loss(hidden, weight, labels, num_items)
    out = row_attention(query, key, value, lengths, scale)
    with lean_lora(model):  # PEFT's layers, computed in two products fewer passes over what they give
        …

Each gives what it stands for up to rounding; `scripts/bench kernels` has the seconds of both, and what is no faster goes.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.hardware import Kernels

MAX_LOGITS = {"cpu": 2**24, "cuda": 2**27}  # logits held at once, 64 MiB in fp32 or 512: a chunk of the head has MAX_LOGITS / V positions
LONG = 512  # tokens of a row from which PyTorch's bf16 backward is as fast as its fp32 one on a CPU (half as fast at 64 to 200)


def labelled_loss(hidden: Tensor, weight: Tensor, labels: Tensor, num_items: int | Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the logits `hidden @ weight.T` summed over all N positions and divided by `num_items`, an fp32 scalar.

    hidden [N, H], weight [V, H], labels [N] in 0..V-1. The products run in the inputs' dtype (bf16 stays bf16), softmax in fp32. The
    gradient is made along with the loss, chunk by chunk, so logits are computed once and never kept. That of `weight` is made only
    where it is needed. `smoothing` is the share of a label that all V tokens have alike.
    """
    differentiable = torch.is_grad_enabled()  # always off inside a Function's forward, so asked here
    loss: Tensor = _LabelledLoss.apply(hidden, weight, labels, num_items, smoothing, differentiable)  # type: ignore[no-untyped-call]
    return loss


class _LabelledLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, num_items: int | Tensor, smoothing: float, differentiable: bool
    ) -> Tensor:
        of_hidden, of_weight = (differentiable and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, MAX_LOGITS.get(hidden.device.type, 2**24) // weight.shape[0])
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            target = labels[part, None]
            logits = hidden[part] @ weight.T
            # Few passes over [rows, V], each in place where it can be: they cost as much as the products.
            powers = logits.sub(logits.amax(dim=1, keepdim=True).float())  # fp32
            total -= (1.0 - smoothing) * powers.gather(1, target).sum()
            if smoothing:
                total -= smoothing * powers.mean(dim=1).sum()
            sums = powers.exp_().sum(dim=1, keepdim=True)
            total += sums.log().sum()
            if grad_hidden is None and grad_weight is None:
                continue
            share = 1.0 / (sums * num_items)
            powers.mul_(share).scatter_add_(1, target, torch.full_like(sums, smoothing - 1.0) / num_items)  # softmax less the label
            if smoothing:
                powers -= smoothing / (weight.shape[0] * num_items)
            grad = logits.copy_(powers)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total / num_items

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        of_hidden, of_weight = (None if grad is None else grad * grad_output.to(grad.dtype) for grad in ctx.saved_tensors)
        return of_hidden, of_weight, None, None, None, None


def row_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float, scale: float | None) -> Tensor:
    """Causal attention within each of the rows that lie end to end: query [heads, T, D], key, value [kv_heads, T, D] -> [heads, T, D]."""
    kv_heads, groups = key.shape[0], query.shape[0] // key.shape[0]
    # Heads that share a key go side by side, [kv_heads, groups, T, D]; keys are expanded without a copy, where `enable_gqa` would make one.
    grouped = query.view(kv_heads, groups, *query.shape[1:])
    shared_key, shared_value = (x.unsqueeze(1).expand(-1, groups, -1, -1) for x in (key, value))
    # One split, not S slices: the gradient of a slice is a zero tensor of full length.
    parts = zip(*(x.split(lengths, dim=2) for x in (grouped, shared_key, shared_value)), strict=True)
    short = query.device.type == "cpu" and query.dtype is torch.bfloat16 and not dropout and torch.is_grad_enabled()
    outputs = [
        _ShortRow.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
        if short and q.shape[2] < LONG
        else scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, is_causal=True)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).flatten(0, 1)


def flash_rows(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None) -> Tensor:
    """The same on a GPU, by PyTorch's own Flash Attention: query [T, heads, D], key and value [T, kv_heads, D], starts [S + 1] int32."""
    varlen_attn = load("torch.nn.attention.varlen").varlen_attn  # a second of imports, for a GPU alone
    # PyTorch before 2.12 takes fewer keys than queries without being told.
    grouped = {"enable_gqa": True} if key.shape[1] != query.shape[1] and "enable_gqa" in varlen_attn.__kwdefaults__ else {}
    found = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scale, window_size=(-1, 0), **grouped)
    return cast(Tensor, found)


class _ShortRow(torch.autograd.Function):
    """PyTorch's attention of a CPU, forward in bf16; its backward runs in fp32, which is nearer, and twice as fast for a short row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        out: Tensor
        out, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)
        ctx.save_for_backward(query, key, value, out, normalizer)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *saved, normalizer = ctx.saved_tensors
        wide = [x.float() for x in (*grad_outputs, *saved)]
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*wide, normalizer, 0.0, True, scale=ctx.scale)
        return *(x.to(saved[0].dtype) for x in found), None


class _Lora(torch.autograd.Function):
    """x W' + s (x A') B' for a frozen W: the second term is added within a product, forwards and backwards, not by passes of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = down.to(x.dtype), up.to(x.dtype)
        inner = rows @ down.T
        base = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        ctx.save_for_backward(rows, weight, down, up, inner)
        ctx.scaling, ctx.shape = scaling, x.shape
        return torch.ops.aten._unsafe_view(base.addmm_(inner, up.T, alpha=scaling), [*x.shape[:-1], len(weight)])  # type: ignore[no-any-return]  # no view: wav2vec2 writes into it

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        grad = grad_outputs[0].reshape(-1, weight.shape[0])
        of_inner = grad @ up
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (grad @ weight).addmm_(of_inner, down, alpha=ctx.scaling).view(ctx.shape)
        of_down, of_up = ((a.T @ b).float().mul_(ctx.scaling) for a, b in ((of_inner, rows), (grad, inner)))
        return of_x, None, None, of_down, of_up, None


@contextlib.contextmanager
def lean_lora(model: nn.Module) -> Iterator[int]:
    """Within it, PEFT's plain LoRA layers over frozen, unquantised maps run as one function; yields how many. The rest is left to PEFT."""
    layers = [module for module in model.modules() if type(module) is LoraLinear and _plain(module)]
    for layer in layers:
        setattr(layer, "forward", types.MethodType(_lean_forward, layer))  # noqa: B010 (mypy: a method)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward


def _plain(layer: Any) -> bool:
    """Whether the layer is one LoRA without dropout, bias or a variant of it, on a frozen linear map."""
    (name, *others) = layer.lora_A or [""]
    if others or layer.active_adapters != [name] or name in layer.lora_variant or layer.fan_in_fan_out:
        return False
    base, no_dropout = layer.base_layer, isinstance(layer.lora_dropout[name], nn.Identity)
    frozen = not any(p.requires_grad for p in base.parameters())
    return type(base) is nn.Linear and frozen and no_dropout and layer.lora_A[name].bias is None and layer.lora_B[name].bias is None


def _lean_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    weight, device = self.base_layer.weight, x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if args or kwargs or self.disable_adapters or self.merged or weight.dtype is not dtype:
        result: Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    (name,) = self.active_adapters
    down, up = self.lora_A[name].weight, self.lora_B[name].weight
    return _Lora.apply(x.to(dtype), weight, self.base_layer.bias, down, up, self.scaling[name])  # type: ignore[no-any-return,no-untyped-call]


def fuse(model: nn.Module) -> None:
    """Norms, rotary embedding and gated activation by Liger's Triton kernels; the loss stays ours. Raises ImportError without them."""
    parts = {"rms_norm": True, "rope": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
    load("transformers.integrations.liger").apply_liger_kernel(model, parts)


def fusable(choice: Kernels, device: torch.device, kind: str = "") -> tuple[str, str]:
    """Why Liger's kernels cannot be had (empty: they can), and the fix. Raises TuneError (code 4) where they are asked for all the same."""
    reason, fix = "", "use `hardware.fused_kernels=auto`"
    if device.type != "cuda":
        reason = f"they are for CUDA, and this run is on {device.type}"
    elif find_spec("liger_kernel") is None:
        reason, fix = "liger-kernel is not installed", "pip install 'tuner[liger]'"
    elif kind and kind not in load("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN:
        reason = f"Liger has none for {kind}"
    if reason and choice is Kernels.always:
        raise TuneError(f"there are no fused kernels: {reason}", "hardware.fused_kernels", fix, code=ENVIRONMENT)
    return reason, fix


def fuse_where(model: Any, choice: Kernels, device: torch.device, tell: Callable[[str], None]) -> None:
    """What `hardware.fused_kernels` says, told. Raises as `fusable`."""
    if choice is Kernels.never:
        return
    reason, fix = fusable(choice, device, model.config.model_type)
    if not reason:
        fuse(model)
        tell("norms, rotary embedding and gated activation by Liger's kernels")
    elif device.type == "cuda":
        tell(f"no fused kernels: {reason}" + (f" ({fix})" if fix.startswith("pip") else ""))
