"""What a diffusion model learns: `Denoising(parts, scheduler, …).objective(…)`: the noise on an image, its velocity, or a flow.

Everything by chance of a row (noise, its level, whether the caption is left out) is drawn from its number and the step's in training: it is
the same however the batch is cut, over whatever processes, and after a resume. When measuring, each row is looked at on several levels,
always the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuner.model.diffusion import Parts
from tuner.model.objectives import Batch, Item, Objective
from tuner.registry import load

UNGUIDED = 1.0  # the guidance that a model which learned it is told of while it learns from images
LEVELS = 4  # noise levels on which a row is measured, evenly spread: a single one tells little


class Denoising:
    """Mean squared error of what is taken away, row by row. `empty`: what the text encoders say of no caption, by name.

    `step` is the optimizer step at hand, which whoever trains sets.
    """

    def __init__(
        self, parts: Parts, scheduler: Any, *, empty: Mapping[str, Tensor], dropout: float = 0.0, gamma: float | None = None, seed: int = 0
    ) -> None:
        self.parts, self.scheduler, self.empty, self.dropout, self.gamma = parts, scheduler, empty, dropout, gamma
        self.seed, self.step = seed, 0
        self.steps = int(scheduler.config.num_train_timesteps)
        self.kind = "flow" if parts.flow else str(scheduler.config.prediction_type)

    def objective(self, rows: Any) -> Objective:
        """For a trainer; `rows`: prepared ones, which a blank one is like."""
        blank = {name: np.zeros_like(value) for name, value in rows[0]["rows"][0].items()} | {"blank": True}
        return Objective(collate=collate, loss=self._loss, count=lambda batch: batch["labels"].sum(), blank=[blank])

    def _loss(self, model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        total: Tensor = (self.losses(model, batch) * batch["labels"]).sum()
        return total

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of each row [rows]: in training on one noise level by chance; else the mean over LEVELS, always the same."""
        if model.training:
            return self._once(model, batch, level=None)
        return torch.stack([self._once(model, batch, level=level) for level in range(LEVELS)]).mean(0)

    def _once(self, model: nn.Module, batch: Batch, *, level: int | None) -> Tensor:
        mean, spread = batch["latents"].unbind(1)
        known = (1, self.seed, self.step) if level is None else (0, level)
        drawn = [_drawn((*known, int(row)), mean.shape[1:]) for row in batch["row"]]
        noise, within = (torch.from_numpy(np.stack([d[n] for d in drawn])).to(mean.device) for n in (0, 1))
        chance = torch.tensor([d[2] for d in drawn], device=mean.device)  # uniform, normal, uniform [rows, 3]
        if level is not None:
            share = (level + chance[:, 0]) / LEVELS
        else:
            share = chance[:, 1].sigmoid() if self.kind == "flow" else chance[:, 0]
            out = chance[:, 2] < self.dropout
            batch = batch | {name: _where(out, self.empty[name], batch[name]) for name in self.empty}
        place = (share * self.steps).long().clamp(max=self.steps - 1)
        noisy, target, time = self.noised(mean + spread * within, noise, place)
        away = (self._taken(model, noisy, time, batch) - target).square().mean((1, 2, 3))
        return away if level is not None or self.gamma is None else away * self.weights(place)

    def noised(self, latents: Tensor, noise: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents with noise on them, what is to be said of them, and the time that the model is told; `place`: of the schedule [rows]."""
        if self.kind == "flow":
            sigmas, times = (values.to(latents.device)[place] for values in (self.scheduler.sigmas, self.scheduler.timesteps))
            share = sigmas.reshape(-1, 1, 1, 1)
            return (1 - share) * latents + share * noise, noise - latents, times
        noisy = self.scheduler.add_noise(latents, noise, place)
        velocity = self.kind == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, place) if velocity else latents if self.kind == "sample" else noise
        return noisy, target, place

    def weights(self, place: Tensor) -> Tensor:
        """Min-SNR's weight of each row's level [rows] (https://arxiv.org/abs/2303.09556)."""
        ratio: Tensor = load("diffusers.training_utils").compute_snr(self.scheduler, place).clamp(min=1e-8)
        cut = ratio.clamp(max=self.gamma)
        return cut / {"epsilon": ratio, "v_prediction": ratio + 1}.get(self.kind, torch.ones_like(ratio))

    def _taken(self, model: nn.Module, noisy: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """What the model says [rows, channels, height, width], in fp32."""
        dtype = next(model.parameters()).dtype
        prompt, pooled = batch["prompt"].to(dtype), batch["pooled"].to(dtype)
        inputs: dict[str, Any] = {"timestep": time, "encoder_hidden_states": prompt, "return_dict": False}
        if self.parts.packed:
            return self._unpacked(model, noisy.to(dtype), inputs | {"pooled_projections": pooled})
        if self.parts.trained == "transformer":
            inputs |= {"hidden_states": noisy.to(dtype), "pooled_projections": pooled}
        else:
            inputs["sample"] = noisy.to(dtype)
            if pooled.shape[1]:
                inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": batch["sizes"].to(dtype)}
        said: Tensor = model(**inputs)[0]
        return said.float()

    def _unpacked(self, model: nn.Module, noisy: Tensor, inputs: dict[str, Any]) -> Tensor:
        """What Flux says, whose pipeline packs latents and tells where each part of them is."""
        rows, channels, height, width = noisy.shape
        pipeline, factor = self.parts.pipeline, self.parts.factor
        inputs["hidden_states"] = pipeline._pack_latents(noisy, rows, channels, height, width)
        inputs["img_ids"] = pipeline._prepare_latent_image_ids(rows, height // 2, width // 2, noisy.device, noisy.dtype)
        inputs["txt_ids"] = noisy.new_zeros(inputs["encoder_hidden_states"].shape[1], 3)
        inputs["timestep"] = inputs["timestep"] / self.steps
        inputs["guidance"] = noisy.new_full((rows,), UNGUIDED) if self.parts.shape.get("guidance_embeds") else None
        said: Tensor = pipeline._unpack_latents(model(**inputs)[0], height * factor, width * factor, factor)
        return said.float()


def _where(out: Tensor, empty: Tensor, given: Tensor) -> Tensor:
    """`empty` for the rows that are `out`."""
    return torch.where(out.reshape(-1, *[1] * (given.ndim - 1)), empty.to(given.device, given.dtype), given)


def _drawn(known: tuple[int, ...], shape: Any) -> tuple[Any, Any, list[float]]:
    """Noise, noise within what the autoencoder says, and three numbers by chance."""
    chance = np.random.default_rng(known)
    noise, within = chance.standard_normal((2, *shape), np.float32)
    return noise, within, [chance.random(), chance.standard_normal(), chance.random()]


def collate(items: list[Item]) -> Batch:
    """Rows below each other; `labels` is 1 of each that is learned, 0 of a blank one."""
    rows = [row for item in items for row in item["rows"]]
    batch: Batch = {
        name: torch.from_numpy(np.stack([row[name] for row in rows]).astype(np.float32))
        for name in ("latents", "prompt", "pooled", "sizes")
    }
    blank = [bool(row.get("blank")) for row in rows]
    return batch | {"row": torch.tensor([int(row["row"]) for row in rows]), "labels": 1 - torch.tensor(blank).long(), "filler": sum(blank)}
