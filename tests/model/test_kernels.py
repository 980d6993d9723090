"""Each kernel against what it stands for: PEFT's own layers, PyTorch's own attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tuner.model import kernels
from tuner.model.kernels import LONG, labelled_loss, lean_lora, row_attention


class Maps(nn.Module):
    """Two linear maps, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def adapted(**settings: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(Maps(), LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], init_lora_weights=False, **settings))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of all that is trained, of the input, and the result itself."""
    model.zero_grad()
    given = x.clone().requires_grad_()
    out = model(given)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return {"": out.detach(), "x": given.grad} | {n: p.grad for n, p in model.named_parameters() if p.requires_grad}  # type: ignore[dict-item]


def test_lean_layers_are_pefts(subtests: pytest.Subtests) -> None:
    torch.manual_seed(0)
    plain, x = Maps(), torch.randn(3, 5, 24)
    for settings in ({}, {"use_rslora": True}, {"rank_pattern": {"first": 7}}):
        with subtests.test(settings):
            model = adapted(**settings)
            expected = gradients(model, x)
            with lean_lora(model) as count:
                assert count == 2
                found = gradients(model, x)
                with model.disable_adapter():
                    torch.testing.assert_close(model(x), plain(x))
            assert found.keys() == expected.keys()
            assert len(found) == 6
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)
            again = gradients(model, x)
            assert all(torch.equal(again[n], expected[n]) for n in expected)  # PEFT's own again


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")
@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}])
def test_what_is_more_than_plain_lora_is_left_to_peft(settings: dict[str, Any]) -> None:
    with lean_lora(adapted(**settings)) as count:
        assert count == (1 if "bias" in settings else 0)  # of the two maps one has no bias to train


def test_under_autocast_they_are_as_near_as_pefts() -> None:
    model, x = adapted(), torch.randn(64, 24)
    exact = gradients(model, x)
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if "lora" in name else parameter.data
    far: list[float] = []
    for lean in (False, True):
        with lean_lora(model if lean else nn.Identity()), torch.autocast("cpu", torch.bfloat16):
            found = gradients(model, x)
        far.append(sum(float((found[n].float() - exact[n]).norm() / exact[n].norm()) for n in exact) / len(exact))
    assert 0 < far[1] < 1.2 * far[0] < 0.02


def test_a_short_rows_gradient_is_nearer_than_pytorchs() -> None:
    torch.manual_seed(0)
    lengths = [3, LONG + 9, 70]
    exact = [torch.randn(heads, sum(lengths), 16, dtype=torch.float32).requires_grad_() for heads in (6, 2, 2)]
    weights = torch.randn(6, sum(lengths), 16)
    narrow = [x.detach().bfloat16().requires_grad_() for x in exact]

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out = row_attention(q, k, v, lengths, 0.0, None)
        return out.detach(), *torch.autograd.grad((out * weights).sum(), (q, k, v))

    wanted = run(*(x.float().detach().requires_grad_() for x in narrow))
    found = run(*narrow)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype is torch.bfloat16
        torch.testing.assert_close(a.float(), b, atol=0.03, rtol=0.02)
    # Rows do not see each other: a change in the first leaves the others' results as they are.
    changed = [copy.copy(x.detach()) for x in narrow]
    for x in changed:
        x[:, :3] += 1
    assert torch.equal(row_attention(*changed, lengths, 0.0, None)[:, 3:], row_attention(*narrow, lengths, 0.0, None)[:, 3:])  # type: ignore[misc]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_and_its_gradients_are_pytorchs(monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(kernels.MAX_LOGITS, "cpu", 7 * 50)  # several chunks, the last one ragged
    hidden, weight = torch.randn(23, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    labels = torch.randint(0, 50, (23,))
    wanted = nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=smoothing) / 31
    found = labelled_loss(hidden, weight, labels, 31, smoothing)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b)
