"""Optimizers beside Transformers' own, and what each needs: `ready(Optim.lion_8bit, device)`, `MuonAdamW(model, lr=2e-4, …)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.adapter import Lora
from tuner.schema.trainer import BITSANDBYTES, PROJECTED, SCHEDULE_FREE, Optim

# Optimizers, the package that they are of, and the extra of ours that brings it.
PACKAGES = (
    (BITSANDBYTES, "bitsandbytes", "qlora"),
    (SCHEDULE_FREE, "schedulefree", "optim"),
    ({o for o in PROJECTED if o.startswith("galore")}, "galore_torch", "optim"),
    ({o for o in PROJECTED if o.startswith("apollo")}, "apollo_torch", "optim"),
)
UNPAGED = {
    Optim.paged_adamw_32bit: Optim.adamw_torch,
    Optim.paged_adamw_8bit: Optim.adamw_bnb_8bit,
    Optim.paged_lion_8bit: Optim.lion_8bit,
}


def ready(optim: Optim, device: torch.device) -> None:
    """Raises TuneError (code 4) when the optimizer's package is not there, or the device has no memory to page."""
    if optim in UNPAGED and device.type == "cpu":
        fix = f"use `trainer.optim={UNPAGED[optim].value}`"
        raise TuneError(
            f"trainer.optim={optim.value} needs a GPU: there is no other memory to page to", "trainer.optim", fix, code=ENVIRONMENT
        )
    package, extra = next((found for kinds, *found in PACKAGES if optim in kinds), ("", ""))
    if not package:
        return
    try:
        load(package)
    except ImportError as error:
        what = f"trainer.optim={optim.value} needs {package}"
        raise TuneError(what, "trainer.optim", f"pip install 'tuner[{extra}]'", code=ENVIRONMENT) from error


def choose(trainer: Any) -> None:
    """What of a TokenTrainer's optimizer Transformers does not know: Muon, LoRA+, projections that a checkpoint can hold."""
    ratio, optim = trainer.adapter.loraplus_lr_ratio if isinstance(trainer.adapter, Lora) else None, trainer.optim
    if trainer.optimizer is not None:
        return
    args, model = trainer.args, trainer.model
    if ratio:
        cls, settings = trainer.get_optimizer_cls_and_kwargs(args, model)
        settings |= {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": args.weight_decay}
        trainer.optimizer = create_loraplus_optimizer(model, cls, **settings)
    elif optim is Optim.muon:
        rates: dict[str, Any] = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        trainer.optimizer = MuonAdamW(model, betas=(args.adam_beta1, args.adam_beta2), **rates)
    elif optim in PROJECTED:
        cls, settings = trainer.get_optimizer_cls_and_kwargs(args, model)
        if optim is Optim.galore_adamw:  # it takes itself for the one of Transformers
            settings["no_deprecation_warning"] = True
        trainer.optimizer_cls_and_kwargs = keeping_projections(cls), settings


def keeping_projections(optimizer: type[Optimizer]) -> type[Optimizer]:
    """GaLore's or APOLLO's class with a state of tensors and numbers: theirs holds objects, which no checkpoint should."""

    class Kept(optimizer):  # type: ignore[misc,valid-type]
        def state_dict(self) -> dict[str, Any]:
            """Projections by their fields, beside the rest: PyTorch would take their texts apart."""
            found: dict[str, Any] = super().state_dict()
            kept = {i: state["projector"] for i, state in found["state"].items() if "projector" in state}
            states = {i: {k: v for k, v in state.items() if k != "projector"} for i, state in found["state"].items()}
            fields = {i: {"class": type(projector).__name__, **vars(projector)} for i, projector in kept.items()}
            return {**found, "state": states, "projectors": fields}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Projections made of their fields again."""
            super().load_state_dict({k: v for k, v in state_dict.items() if k != "projectors"})
            parameters = [p for group in self.param_groups for p in group["params"]]
            for index, fields in state_dict["projectors"].items():
                cls = getattr(load(optimizer.__module__), fields["class"])
                projector = self.state[parameters[index]]["projector"] = cls.__new__(cls)
                vars(projector).update({k: v for k, v in fields.items() if k != "class"})

    return Kept


class MuonAdamW(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices within the model, AdamW for embeddings, head, norms and biases.

    Muon's steps are scaled to AdamW's size (https://arxiv.org/abs/2502.16982), so that one learning rate serves both.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
        ends |= {id(p) for name, m in model.named_modules() if name.endswith("lm_head") for p in m.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in ends]
        others = [p for p in trained if p.ndim != 2 or id(p) in ends]
        self.parts: list[Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas))
        super().__init__(trained, {"lr": lr})
        self._link()

    def _link(self) -> None:
        """The groups are the parts' own: a schedule that sets a rate here sets it there."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of both."""
        assert closure is None
        for part in self.parts:
            part.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        """Both states, in the order of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._link()
