"""`debug=noise`: the gradient noise scale where it is known, and on the tiny model; what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.lab import Lab, log_of, make_lab, train
from tuner.errors import TuneError
from tuner.model.packed import IGNORE
from tuner.pipeline import execute
from tuner.runs import read_json
from tuner.train.debugging.noise import Estimate, Norms, Sample, course, estimate

DIMENSIONS, BATCH, STEPS, ROW = 50, 8, 400, 5.0  # ROW: mean tokens of a row, of 1 to 9


class Linear(nn.Module):
    """The loss of a token is the weights times what it says: that is its gradient."""

    def __init__(self) -> None:
        super().__init__()
        halves = DIMENSIONS // 2
        self.first, self.second = nn.Parameter(torch.zeros(halves)), nn.Parameter(torch.zeros(halves))

    def forward(self, said: Tensor, labels: Tensor) -> Tensor:
        """The sum over tokens."""
        assert labels.shape[1] == len(said) + 1
        return (said @ torch.cat([self.first, self.second])).sum()


def measured(noise_scale: float, *, micro: int) -> list[Sample]:
    """Steps of a model whose gradient is `mean`, of norm 1, a token with independent noise, so that the scale in rows is known."""
    generator, model = torch.Generator().manual_seed(7), Linear()
    norms, mean = Norms(model), torch.full((DIMENSIONS,), DIMENSIONS**-0.5)
    spread = math.sqrt(noise_scale * ROW / DIMENSIONS)
    samples = []
    for _ in range(STEPS):
        counts = torch.randint(1, 10, (BATCH // micro, micro), generator=generator).sum(1).tolist()
        for tokens in counts:
            said = mean + spread * torch.randn(tokens, DIMENSIONS, generator=generator)
            labels = torch.zeros(1, tokens + 1, dtype=torch.long)
            labels[:, 0] = IGNORE  # as the first token of a row
            (model(said=said, labels=labels) / sum(counts)).backward()
        samples.append(norms.take())
        model.zero_grad()
    norms.remove()
    return samples


def deviation(samples: list[Sample], noise_scale: float) -> float:
    """The standard deviation of the estimate, by the delta method from the normal distribution of the gradients.

    A step of m parts and N tokens, each of variance v in d dimensions, gives a trace of v / (m - 1) times a chi-squared of (m - 1) d
    degrees. Independent of it is the squared norm of the whole, of variance 4 v / N + 2 d v^2 / N^2 where the mean's norm is 1.
    """
    v, d = noise_scale * ROW / DIMENSIONS, DIMENSIONS
    trace = signal = both = 0.0
    for sample in samples:
        m, n = len(sample.tokens), sum(sample.tokens)
        one = 2 * d * v**2 / (m - 1)
        trace += one
        signal += 4 * v / n + 2 * d * v**2 / n**2 + one / n**2
        both -= one / n
    count, whole = len(samples), d * v
    return noise_scale * math.sqrt((trace / whole**2 + signal - 2 * both / whole) / count**2)


@pytest.mark.parametrize("noise_scale", [0.5, 5.0, 40.0])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_noise_scale_that_is_known_is_found(noise_scale: float, micro: int) -> None:
    samples = measured(noise_scale, micro=micro)
    found = estimate(samples, micro)
    expected = deviation(samples, noise_scale)
    # Rows are of 5 tokens in the mean of all; those that were drawn are of some more or less.
    in_these = noise_scale * ROW / found.tokens_per_row
    assert found.tokens_per_row == pytest.approx(ROW, abs=4 * math.sqrt(60 / 9) / math.sqrt(STEPS * BATCH))
    assert found.rows == pytest.approx(in_these, abs=4 * expected)
    assert 4 * expected < 0.5 * noise_scale, "a bound that says something"
    assert found.signal == pytest.approx(1, abs=0.5)
    assert found.error == pytest.approx(expected, rel=0.3)


def test_the_course_follows_a_scale_that_grows() -> None:
    """From 0.5 to 40 rows half-way: the estimate of the steps around each is near what holds there, that of all is neither."""
    samples = [*measured(0.5, micro=1)[:200], *measured(40.0, micro=1)[:200]]
    found = dict(course(samples, 1))
    early, late = ([rows for step, rows in found.items() if step in range(*where)] for where in ((20, 180), (220, 380)))
    assert sum(early) / len(early) == pytest.approx(0.5, rel=0.1)
    assert min(late) > 2 * max(early)
    assert max(found) <= 400


def test_hooks_see_what_autograd_gives() -> None:
    model = Linear()
    norms = Norms(model)
    said = [torch.randn(3, DIMENSIONS), torch.randn(5, DIMENSIONS)]
    for rows in said:
        model(said=rows, labels=torch.zeros(1, len(rows) + 1, dtype=torch.long)).backward()
    sample = norms.take()
    assert sample.tokens == [3, 5]
    assert sample.parts == pytest.approx([float(rows.sum(0).square().sum()) for rows in said])
    assert sample.whole == pytest.approx(float(torch.cat(said).sum(0).square().sum()))
    norms.remove()
    model(said=said[0], labels=torch.zeros(1, 4, dtype=torch.long)).backward()
    assert norms.take().tokens == []


def test_what_is_lost_in_noise_and_what_has_none() -> None:
    lost = estimate([Sample([1, 1], [1.0, 1.0], 0.5)] * 3, 1)
    assert (lost.rows, lost.suggestion) == (None, None)
    alike = estimate([Sample([1, 1], [1.0, 1.0], 4.0)] * 3, 1)
    assert (alike.rows, alike.error, alike.suggestion) == (0.0, 0.0, 1)
    assert [Estimate(1, 1, 1, rows, 1).suggestion for rows in (1.2, 6.1, 40.0, 1000.0)] == [1, 8, 32, 1024]


def test_the_gradients_of_a_real_training_are_read(tmp_path: Path) -> None:
    lab, found = make_lab(tmp_path), []
    for padding_free in ("always", "never"):
        run = lab.run("debug=noise", "debug.steps=5", "trainer.learning_rate=1e-3", f"trainer.padding_free={padding_free}")
        train(run)
        found.append(read_json(run.folder / "noise.json"))
        logged = [entry["grad_norm"] for entry in log_of(run.folder)]
        assert [math.sqrt(step["whole"]) for step in found[-1]["steps"]] == pytest.approx(logged, rel=1e-4), "before it is clipped"
    assert found[0]["micro_batch"] == 1
    assert [len(step["tokens"]) for step in found[0]["steps"]] == [8] * 5
    trained = read_json(run.stage_folder("prepare") / "audit.json")["supervised_tokens"]
    assert sum(sum(step["tokens"]) for step in found[0]["steps"]) == trained, "five steps of eight are all of forty rows"
    for one, other in zip(found[0]["steps"], found[1]["steps"], strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["parts"] == pytest.approx(other["parts"], rel=1e-3)
    told = [line for line in lab.told if line.startswith("gradient noise scale")]
    assert f"trainer.batch_size={found[0]['suggestion']} " in told[0]
    assert f"{found[0]['noise_scale']:.3g} rows" in told[0]
    assert [step for step, _ in found[0]["course"]] == [1, 2, 3, 4, 5]
    assert f", {found[0]['course'][-1][1]:.3g} around the last step: " in told[0]


def test_the_report_draws_it(tmp_path: Path) -> None:
    run = make_lab(tmp_path).run("debug=noise", "debug.steps=5", "trainer.learning_rate=1e-3")
    run.plan.write(run.folder / "plan.json")
    execute(run)
    page = (run.folder / "report.html").read_text()
    chart = page.partition('aria-label="Noise scale over steps"')[2].partition("</svg>")[0]
    assert 'class="held-out"' in chart
    assert 'class="train"' in chart
    assert f"<code>trainer.batch_size={read_json(run.folder / 'noise.json')['suggestion']}</code>" in page


def test_a_gradient_lost_in_noise_is_a_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(tmp_path)
    monkeypatch.setattr(Norms, "take", lambda self: self.tokens.clear() or Sample([1, 1], [1.0, 1.0], 0.5))
    run = lab.run("debug=noise", "debug.steps=3")
    with pytest.raises(TuneError, match="the gradient is lost in its noise over 3 steps") as caught:
        train(run)
    assert caught.value.code == 3
    assert read_json(run.folder / "noise.json")["suggestion"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("trainer.batch_size=1",), r"`trainer.batch_size` \(1\) is not above the micro-batch \(1\)"),
        (("hardware.micro_batch_size=8",), r"`trainer.batch_size` \(8\) is not above the micro-batch \(8\)"),
        (("hardware=ddp",), "reads the gradients of one device"),
        (("trainer.precision=fp16", "hardware.device=cuda"), "fp16 scales them"),
        (("trainer.label_smoothing_factor=0.1",), "counts the labels"),
        (("adapter=adalora",), "AdaLoRA's penalty"),
        (("trainer.max_steps=3",), "needs 50 steps"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    with pytest.raises(TuneError, match=said) as caught:
        make_lab(tmp_path).plan("debug=noise", *given)
    assert caught.value.code == 2


def test_too_few_rows_for_two_micro_batches_are_told(tmp_path: Path) -> None:
    lab: Lab = make_lab(tmp_path, rows=1)
    with pytest.raises(TuneError, match="had more than one micro-batch") as caught:
        train(lab.run("debug=noise", "debug.steps=3"))
    assert caught.value.code == 3


def test_the_scale_stands_in_the_report(tmp_path: Path) -> None:
    run = make_lab(tmp_path).run("debug=noise", "debug.steps=4", "trainer.batch_size=8", "adapter=full")
    run.plan.write(run.folder / "plan.json")
    execute(run)
    page = (run.folder / "report.html").read_text()
    assert "Gradient noise" in page
    assert "over 4 steps of 8 rows" in page
