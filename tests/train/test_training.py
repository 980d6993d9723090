"""Training itself: the right parameters move, the batch is global whatever the micro-batch, and what goes wrong stops with a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState, TrainingArguments

from tests.lab import Lab, log_of, losses_of, make_lab, task_of, tiny_model, train, weights_of
from tuner.errors import TuneError
from tuner.pipeline import execute
from tuner.schema.trainer import PROJECTED, Optim
from tuner.train.checkpoints import all_checkpoints, broken, step_of
from tuner.train.guards import LossGuard


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([AutoTokenizer.from_pretrained(str(tiny_model()))("<|im_start|>user\na1?<|im_end|>\n")["input_ids"]])
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(ids).logits
    return found


def fresh_base() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32)


def trained_model(lab: Lab, *overrides: str) -> tuple[Any, dict[str, torch.Tensor], Any]:
    """(run, parameters before, the model after) of a training whose model is kept."""
    run = lab.run(*overrides)
    task, kept = task_of(run), {}

    class Keeping:
        trainer, save, probe = staticmethod(task.trainer), staticmethod(task.save), staticmethod(task.probe)

        @staticmethod
        def load(run: Any, *, trainable: bool) -> Any:
            kept["model"] = task.load(run, trainable=trainable)
            kept["before"] = {n: p.detach().clone() for n, p in kept["model"].named_parameters()}
            return kept["model"]

    from tuner.data.splits import split
    from tuner.train.fit import fit

    prepared = run.stage_folder("prepare")
    task.prepare(run, split(run)[0], prepared)
    fit(run, Keeping, prepared)
    return run, kept["before"], kept["model"]


def moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p.detach())}


def test_only_lora_moves_and_all_of_it_and_plain_peft_loads_it(lab: Lab) -> None:
    run, before, model = trained_model(lab, "trainer.max_steps=3")
    lora = {n for n in before if "lora_" in n}
    assert len(lora) == 2 * 7 * 2, "q k v o gate up down, in two layers, A and B"
    assert moved(before, model) == lora
    after = logits(model)
    assert not torch.allclose(after, logits(fresh_base()), atol=1e-3)
    loaded = PeftModel.from_pretrained(fresh_base(), str(run.folder))
    torch.testing.assert_close(logits(loaded), after)
    tokenizer = AutoTokenizer.from_pretrained(str(run.folder))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    )
    generation = json.loads((run.folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1]


def test_full_fine_tuning_moves_everything_and_loads_as_a_model(lab: Lab) -> None:
    run, before, model = trained_model(lab, "trainer.max_steps=3", "adapter=full")
    assert moved(before, model) == set(before)
    loaded = AutoModelForCausalLM.from_pretrained(str(run.folder), dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), logits(model))
    assert not (run.folder / "adapter_model.safetensors").exists()


def test_full_fine_tuning_in_bf16_updates_fp32_weights_and_saves_bf16(lab: Lab) -> None:
    choice = ["adapter=full", "model.dtype=bfloat16", "trainer.precision=bf16"]
    run, before, model = trained_model(lab, "trainer.max_steps=3", "trainer.learning_rate=1e-6", "trainer.warmup_ratio=0", *choice)
    assert {p.dtype for p in before.values()} == {torch.float32}
    weights = weights_of(run.folder, "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}, "as it was saved"
    (checkpoint, *_) = all_checkpoints(run.folder / "checkpoints")
    kept = weights_of(checkpoint, "model.safetensors")
    assert {w.dtype for w in kept.values()} == {torch.float32}
    small = {n for n, w in kept.items() if n in before and not torch.equal(w, before[n])}
    assert len(small) == len(kept), "steps of 1e-6, which bf16 weights of 1e-2 would swallow"


def test_one_step_alone_trains(lab: Lab) -> None:
    run = lab.run("trainer.max_steps=1", "trainer.warmup_ratio=0.1")
    train(run)
    assert log_of(run.folder)[0]["learning_rate"] > 0
    assert any(w.abs().sum() > 0 for n, w in weights_of(run.folder).items() if "lora_B" in n)


@pytest.mark.parametrize(
    ("overrides", "trainable"),
    [
        (["adapter.target_modules=[q_proj,v_proj]"], {"q_proj", "v_proj"}),
        (["adapter.target_modules='.*layers.1.*up_proj'"], {"up_proj"}),
    ],
)
def test_targets_are_what_was_asked_for(lab: Lab, overrides: list[str], trainable: set[str]) -> None:
    run = lab.run(*overrides)
    model = task_of(run).load(run, trainable=True)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert {n.split(".lora_")[0].rpartition(".")[2] for n in names} == trainable
    assert "layers.1" in "".join(names)


# PEFT warns of merging such an adapter (https://github.com/huggingface/peft/issues/2777); it is not merged here.
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
@pytest.mark.parametrize("name", ["norm", "lm_head", "embed_tokens"])
def test_modules_to_save_are_trained_and_saved(lab: Lab, name: str) -> None:
    run, before, model = trained_model(lab, "trainer.max_steps=2", f"adapter.modules_to_save=[{name}]")
    assert any("modules_to_save" in n and name in n for n in moved(before, model))
    assert any(n.endswith(f"{name}.weight") for n in weights_of(run.folder))
    loaded = PeftModel.from_pretrained(fresh_base(), str(run.folder))
    torch.testing.assert_close(logits(loaded), logits(model))
    losses = losses_of(run.folder)
    train(lab.run("trainer.max_steps=2", f"adapter.modules_to_save=[{name}]", "trainer.padding_free=never", "name=padded"))
    (padded,) = (lab.folder / "outputs" / "padded").iterdir()
    assert losses_of(padded) == pytest.approx(losses, abs=2e-5)


def test_a_module_to_save_that_is_not_there_is_told(lab: Lab) -> None:
    with pytest.raises(TuneError, match="no module `score`") as caught:
        train(lab.run("adapter.modules_to_save=[norm,score]"))
    (problem,) = caught.value.problems
    assert (caught.value.code, problem.where) == (2, "adapter.modules_to_save")
    assert "embed_tokens" in problem.fix


def test_a_target_that_is_no_regular_expression_is_told(lab: Lab) -> None:
    with pytest.raises(TuneError, match="missing \\)") as caught:
        train(lab.run("adapter.target_modules='('"))
    assert (caught.value.code, caught.value.problems[0].where) == (2, "adapter.target_modules")


def test_targets_that_match_nothing_name_the_linear_modules(lab: Lab) -> None:
    with pytest.raises(TuneError) as caught:
        train(lab.run("adapter.target_modules=[query,value]"))
    (problem,) = caught.value.problems
    assert (caught.value.code, problem.where) == (2, "adapter.target_modules")
    assert "linear modules of this model: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in problem.fix


@pytest.mark.parametrize("adapter", ["dora", "rslora", "qlora", "[qlora,int8]"])
def test_each_adapter_trains_and_reloads(lab: Lab, adapter: str) -> None:
    extra = []
    if adapter.startswith("["):
        adapter, extra = "qlora", ["adapter.quant=int8"]
    run, before, model = trained_model(lab, "trainer.max_steps=2", "trainer.warmup_ratio=0", f"adapter={adapter}", *extra)
    lora = {n for n in before if "lora_" in n}
    assert moved(before, model) == lora, "gradients reach every adapter weight and nothing else"
    assert len(lora) == 28 + (14 if adapter == "dora" else 0)
    assert all(math.isfinite(v) for v in losses_of(run.folder))
    found = task_of(run).load(run, tuned=run.folder)
    assert not torch.allclose(logits(found), logits(fresh_base()), atol=1e-3)
    if adapter != "qlora":
        torch.testing.assert_close(logits(found), logits(model))


CURVE = ("trainer.max_steps=6", "trainer.batch_size=8")


def curve(lab: Lab, *overrides: str) -> list[float]:
    run = lab.run(*CURVE, *overrides, f"name=r{len(list((lab.folder / 'outputs').glob('r*')))}")
    train(run)
    return losses_of(run.folder)


def test_micro_batch_padding_and_checkpointing_change_no_loss(lab: Lab) -> None:
    """Rows of unlike length, so that a mean of means would differ from the mean of the global batch."""
    with (lab.folder / "train.jsonl").open("a") as stream:
        for n in range(20):
            messages = [{"role": "user", "content": "x" * (5 * n)}, {"role": "assistant", "content": "y" * (n * n % 97)}]
            stream.write(json.dumps({"messages": messages}) + "\n")
    expected = curve(lab)
    assert len(expected) == 6
    assert len({round(loss, 3) for loss in expected}) == 6
    for name, overrides in {
        "micro-batches": ["hardware.micro_batch_size=2"],
        "padding": ["trainer.padding_free=never"],
        "padding in micro-batches": ["trainer.padding_free=never", "hardware.micro_batch_size=4"],
        "checkpointing": ["trainer.activation_checkpointing=true"],
        "checkpointing of every second layer": ["trainer.activation_checkpointing=true", "trainer.checkpoint_every_n_layers=2"],
    }.items():
        assert curve(lab, *overrides) == pytest.approx(expected, abs=2e-5), name
    every = curve(lab, "task.loss_on=all")
    assert every != pytest.approx(expected, abs=1e-3)
    for overrides in (["hardware.micro_batch_size=2"], ["trainer.padding_free=never", "hardware.micro_batch_size=2"]):
        assert curve(lab, "task.loss_on=all", *overrides) == pytest.approx(every, abs=2e-5)


def test_the_first_loss_is_the_models_own(lab: Lab) -> None:
    """Cross-entropy over the trained tokens of the first global batch: near ln(258), as no training has happened."""
    assert curve(lab, "trainer.max_steps=1")[0] == pytest.approx(math.log(258), abs=0.15)


def test_packing_trains_on_all_rows(lab: Lab) -> None:
    run = lab.run("task.packing=true", "task.max_length=128", "trainer.batch_size=2", "trainer.num_train_epochs=2")
    facts = train(run)
    rows, tokens = 40, json.loads((run.stage_folder("prepare") / "data.json").read_text())["train"]["tokens"]
    packs = math.ceil(tokens / 128)
    assert facts["steps"] < rows, "packed rows are fewer than rows"
    assert facts["steps"] >= packs
    assert facts["tokens"] == 2 * tokens, "each token once an epoch, no padding"
    assert losses_of(run.folder)[-1] < losses_of(run.folder)[0] - 0.3


def test_steps_and_tokens_are_counted(lab: Lab) -> None:
    run = lab.run("trainer.num_train_epochs=1.5", "trainer.batch_size=16")
    facts = train(run)
    assert facts["steps"] == math.ceil(3 * 1.5)
    log = log_of(run.folder)
    assert [e["step"] for e in log] == [1, 2, 3, 4, 5]
    assert log[-1]["tokens"] == facts["tokens"]
    data = json.loads((run.stage_folder("prepare") / "data.json").read_text())
    assert log[2]["tokens"] == data["train"]["tokens"], "an epoch sees each token once, the last smaller batch too"
    assert log[2]["epoch"] == pytest.approx(1.0)
    assert all({"loss", "learning_rate", "grad_norm", "tokens_per_s", "time_s"} <= set(e) for e in log)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0, 0.5, *[0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(8)]]),
        ("inverse_sqrt", None),
        ("polynomial", None),
    ],
)
def test_schedulers(lab: Lab, scheduler: str, expected: list[float] | None) -> None:
    run = lab.run("trainer.max_steps=10", f"trainer.lr_scheduler_type={scheduler}", "trainer.warmup_ratio=0.2", "trainer.save_steps=0")
    train(run)
    rates = [e["learning_rate"] / 1e-2 for e in log_of(run.folder)]
    assert len(rates) == 10
    if expected:
        assert rates == pytest.approx(expected, abs=1e-6)
    assert max(rates) <= 1 + 1e-9
    assert not list((run.folder / "checkpoints").glob("checkpoint-*")), "save_steps=0 writes none"


def test_paged_optimizers_need_a_gpu(lab: Lab) -> None:
    with pytest.raises(TuneError, match="needs a GPU") as caught:
        task_of(run := lab.run("trainer.optim=paged_lion_8bit")).possible(run)
    assert (caught.value.code, caught.value.problems[0].fix) == (4, "use `trainer.optim=lion_8bit`")


@pytest.mark.parametrize("optim", [o.value for o in Optim if not o.value.startswith("paged")])
def test_optimizers(lab: Lab, optim: str) -> None:
    """Each lowers the loss, by LoRA and by full fine-tuning (where Muon has AdamW for embeddings and norms beside it)."""
    rate = {"sgd": "1", "muon": "1e-2", "schedule_free_sgd": "3"}.get(optim, "3e-3")
    more = ("trainer.lr_scheduler_type=constant",) if "schedule_free" in optim else ()
    if optim in PROJECTED:
        more = ("trainer.optim_args={rank: 4, update_proj_gap: 2}",)
    for adapter in ("lora", "full") if optim not in PROJECTED else ("full",):
        choice = (f"trainer.optim={optim}", f"adapter={adapter}", f"trainer.learning_rate={rate}", "trainer.warmup_ratio=0", *more)
        run, before, model = trained_model(lab, "trainer.max_steps=6", *choice)
        assert moved(before, model) == {n for n in before if adapter == "full" or "lora_" in n}
        losses = losses_of(run.folder)
        assert losses[-1] < losses[0] - 0.02, (adapter, losses)


@pytest.mark.parametrize("padding", ["auto", "never"])
def test_neftune_is_noise_while_training_alone(lab: Lab, padding: str) -> None:
    still = ("trainer.max_steps=1", "trainer.warmup_ratio=0", "trainer.learning_rate=1e-9")
    choice = (f"trainer.padding_free={padding}", "trainer.eval_steps=1", *still)
    plain, noisy = lab.run(*choice, "name=plain"), lab.run(*choice, "trainer.neftune_noise_alpha=50", "name=noisy")
    train(plain)
    train(noisy)
    assert abs(losses_of(noisy.folder)[0] - losses_of(plain.folder)[0]) > 1e-3
    measured = [[e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e] for run in (plain, noisy)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-5)


def test_label_smoothing_is_of_training_alone(lab: Lab) -> None:
    """With padding Transformers smooths, without it we do: the same loss. What is held out is measured by its labels."""
    still = ("trainer.max_steps=1", "trainer.warmup_ratio=0", "trainer.learning_rate=1e-9", "trainer.eval_steps=1")
    losses, measured = {}, []
    for padding in ("auto", "never"):
        for share in (0.0, 0.5):
            name = f"{padding}{share * 10:.0f}"
            run = lab.run(*still, f"trainer.padding_free={padding}", f"trainer.label_smoothing_factor={share}", f"name={name}")
            train(run)
            losses[name] = losses_of(run.folder)[0]
            measured += [e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e]
    assert measured == pytest.approx([measured[0]] * 4, abs=1e-5)
    assert losses["auto5"] == pytest.approx(losses["never5"], abs=2e-5)
    assert losses["auto0"] == pytest.approx(losses["never0"], abs=2e-5)
    assert abs(losses["auto5"] - losses["auto0"]) > 1e-3


def test_the_average_is_what_is_measured_and_kept(lab: Lab) -> None:
    """A decay near 1 keeps the average near the start, where the last weights are far from it."""
    choice = ("trainer.max_steps=12", "trainer.eval_steps=12", "adapter=full", "trainer.learning_rate=3e-3")
    plain, averaged = lab.run(*choice, "name=plain"), lab.run(*choice, "trainer.ema_decay=0.999", "name=averaged")
    for run in (plain, averaged):
        assert train(run)["steps"] == 12
    assert losses_of(plain.folder) == losses_of(averaged.folder), "steps are taken from the last weights"
    last, mean = (next(e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e) for run in (plain, averaged))
    assert mean > last + 0.01
    start, end, kept = fresh_base().state_dict(), *(weights_of(run.folder, "model.safetensors") for run in (plain, averaged))
    name = "model.layers.0.mlp.up_proj.weight"
    assert 0 < (kept[name] - start[name]).norm() < 0.99 * (end[name] - start[name]).norm()


@pytest.mark.parametrize("optim", ["schedule_free_adamw", "schedule_free_sgd"])
def test_schedule_free_results_are_the_averaged_weights(lab: Lab, optim: str) -> None:
    """What training steps from is another point; after a kill before the result was saved, the result is the same."""
    rate = {"schedule_free_adamw": "3e-2", "schedule_free_sgd": "3"}[optim]
    choice = (f"trainer.optim={optim}", "trainer.lr_scheduler_type=constant", "trainer.max_steps=6", f"trainer.learning_rate={rate}")
    run = lab.run(*choice)
    train(run)
    whole = (run.folder / "adapter_model.safetensors").read_bytes()
    stepped = weights_of(run.folder / "checkpoints" / "checkpoint-6")
    assert any(not torch.equal(stepped[name], value) for name, value in weights_of(run.folder).items())
    (run.folder / "adapter_model.safetensors").unlink()
    train(lab.run(*choice))
    assert (run.folder / "adapter_model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.optim=sgd", "trainer.optim_args={momentun: 0.9}"], "has no setting `momentun`"),
        (["trainer.optim_args={rank: 4}"], "`adamw_torch` has no setting `rank`"),
        (["trainer.optim=sgd", "trainer.optim_args={momentum: much}"], "`momentum` of `sgd` is a number from 0 on, not 'much'"),
        (["trainer.optim=sgd", "trainer.optim_args={nesterov: 1}"], "is true or false, not 1"),
        (["trainer.optim=galore_adamw", "adapter=full", "trainer.optim_args={rank: 0}"], "is a whole number from 1 on, not 0"),
        (["trainer.optim=galore_adamw", "adapter=full", "trainer.optim_args={proj_type: wild}"], "is one of std, reverse_std"),
        (["trainer.optim=schedule_free_adamw"], "averages instead of lowering the rate"),
        (["trainer.optim=galore_adamw"], "an adapter's are small as they are"),
        (["trainer.activation_offloading=true"], "needs `trainer.activation_checkpointing`"),
        (["trainer.ema_decay=0.9", "adapter=adalora"], "AdaLoRA cuts ranks"),
    ],
)
def test_what_an_optimizer_cannot_do_is_told(lab: Lab, overrides: list[str], message: str) -> None:
    with pytest.raises(TuneError, match=message):
        lab.plan(*overrides)


@pytest.mark.parametrize("override", ["trainer.precision=tf32", "trainer.activation_offloading=true", "hardware.fused_kernels=always"])
def test_what_needs_a_gpu_is_an_error_without_one(lab: Lab, override: str) -> None:
    with pytest.raises(TuneError) as caught:
        train(lab.run("trainer.activation_checkpointing=true", override))
    assert (caught.value.code, caught.value.problems[0].where) == (4, override.partition("=")[0])


def test_bf16_autocast_trains(lab: Lab) -> None:
    found = curve(lab, "trainer.precision=bf16", "trainer.max_steps=6")
    assert found == pytest.approx(curve(lab, "trainer.precision=fp32", "trainer.max_steps=6"), abs=0.05)
    assert found[-1] < found[0] - 0.15


def test_held_out_loss_is_measured_while_training(lab: Lab) -> None:
    run = lab.run("trainer.max_steps=6", "trainer.eval_steps=2")
    train(run)
    log = log_of(run.folder)
    measured = [e for e in log if "eval_loss" in e]
    assert [e["step"] for e in measured] == [2, 4, 6]
    assert measured[-1]["eval_loss"] < measured[0]["eval_loss"]
    assert [e["step"] for e in log if "loss" in e] == [1, 2, 3, 4, 5, 6]
    scored = task_of(run).score(lab.run("trainer.max_steps=6", "trainer.eval_steps=2", "eval.generate=false"), *held_out(run))
    loss = sum(r.loss_sum for r in scored) / sum(r.tokens for r in scored)
    assert measured[-1]["eval_loss"] == pytest.approx(loss, rel=1e-5), "the curve's last point is what the evaluation measures"


def held_out(run: Any) -> tuple[Any, Any]:
    from tuner.data.splits import split

    return task_of(run).load(run, tuned=run.folder), split(run)[1]


@pytest.mark.parametrize("overrides", [["hardware.micro_batch_size=1"], ["hardware.micro_batch_size=4", "trainer.padding_free=never"]])
def test_the_held_out_loss_does_not_depend_on_the_micro_batch(lab: Lab, overrides: list[str]) -> None:
    """It decides on early stopping and the best checkpoint, and hardware must change no result: a mean over tokens, not over batches."""
    talks = [("x" * 7 * n, "y" * (n * n % 31)) for n in range(9)] + [("z" * 300, "cut away, so nothing of it is trained")]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in talks]
    (lab.folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = []
    for more in ([], overrides):
        run = lab.run("trainer.max_steps=2", "trainer.eval_steps=1", "task.max_length=250", f"name=m{len(more)}", *more)
        train(run)
        measured.append([e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e])
    assert len(measured[0]) == 2
    assert measured[1] == pytest.approx(measured[0], rel=1e-5)


FALLS_THEN_RISES = (
    "trainer.max_steps=12",
    "trainer.eval_steps=2",
    "trainer.lr_scheduler_type=constant",
    "trainer.learning_rate=2e-2",
    "adapter=full",
)


def reverse(lab: Lab) -> None:
    """Held-out rows like the training rows with another answer: their loss falls while the form is learned, then rises."""
    answer = '{"zebra": "z"}'
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"{chr(97 + n)}{n}?"}, {"role": "assistant", "content": answer}]})
        for n in range(8)
    ]
    (lab.folder / "eval.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("save_steps", [0, 3])
def test_the_lowest_held_out_loss_is_kept(lab: Lab, save_steps: int) -> None:
    reverse(lab)
    run = lab.run(
        *FALLS_THEN_RISES, f"trainer.save_steps={save_steps}", "trainer.load_best_model_at_end=true", "trainer.save_total_limit=1"
    )
    facts = train(run)
    measured = {e["step"]: e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e}
    best = min(measured, key=lambda step: measured[step])
    assert best not in (2, 12), "the test needs a minimum in the middle"
    assert facts["best_step"] == best
    kept = run.folder / "checkpoints" / f"checkpoint-{best}"
    assert broken(kept) is None
    name = "model.safetensors"
    assert {k: v.tolist() for k, v in weights_of(run.folder, name).items()} == {k: v.tolist() for k, v in weights_of(kept, name).items()}
    assert any(f"keeping step {best}" in line for line in lab.told)
    scored = task_of(run).score(lab.run(*FALLS_THEN_RISES, "eval.generate=false"), *held_out(run))
    lowest = sum(r.loss_sum for r in scored) / sum(r.tokens for r in scored)
    assert lowest == pytest.approx(measured[best], rel=1e-5)


def test_early_stopping(lab: Lab) -> None:
    reverse(lab)
    run = lab.run("trainer.max_steps=40", "trainer.eval_steps=1", "trainer.early_stopping_patience=2", "adapter=full")
    facts = train(run)
    measured = {e["step"]: e["eval_loss"] for e in log_of(run.folder) if "eval_loss" in e}
    best = min(measured, key=lambda step: measured[step])
    assert facts["steps"] == best + 2 == max(measured)
    assert facts["steps"] < 40
    # Killed before the result was saved: the rerun does not train past the stop.
    weights = (run.folder / "model.safetensors").read_bytes()
    (run.folder / "model.safetensors").unlink()
    assert train(run) == facts
    assert (run.folder / "model.safetensors").read_bytes() == weights


def test_a_damaged_best_checkpoint_is_not_passed_off_as_the_result(lab: Lab) -> None:
    reverse(lab)
    run = lab.run(*FALLS_THEN_RISES, "trainer.load_best_model_at_end=true", "trainer.save_total_limit=1")
    best = train(run)["best_step"]
    (run.folder / "checkpoints" / f"checkpoint-{best}" / "model.safetensors").write_bytes(b"")
    with pytest.raises(TuneError, match=f"best step {best} cannot be used: model.safetensors is damaged") as caught:
        train(run)
    assert caught.value.code == 4


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(lab: Lab) -> None:
    overrides = ["trainer.max_steps=12", "trainer.save_steps=1", "trainer.warmup_ratio=0.9", "trainer.max_grad_norm=0", "trainer.optim=sgd"]
    run = lab.run(*overrides, "trainer.learning_rate=9.9", "trainer.save_total_limit=2", "adapter.lora_alpha=100000")
    with pytest.raises(TuneError) as caught:
        train(run)
    (problem,) = caught.value.problems
    assert caught.value.code == 3
    assert "not a number" in problem.what or "exploded" in problem.what
    assert "lower `trainer.learning_rate` (now 9.9)" in problem.fix
    step = int(problem.where.removeprefix("training step "))
    kept = all_checkpoints(run.folder / "checkpoints")
    assert kept
    assert step_of(kept[-1]) < step
    assert f"the checkpoint of step {step_of(kept[-1])} is kept" in problem.what
    assert all(broken(c) is None for c in kept)
    assert all(bool(torch.isfinite(t).all()) for t in weights_of(kept[-1]).values())
    assert not (run.folder / "adapter_model.safetensors").exists()


def test_a_batch_that_does_not_divide_is_told(lab: Lab) -> None:
    with pytest.raises(TuneError, match=r"`trainer\.batch_size` \(8\) is no multiple of `hardware\.micro_batch_size` \(3\)") as caught:
        train(lab.run("hardware.micro_batch_size=3"))
    assert caught.value.code == 2


def test_the_seed_decides(lab: Lab) -> None:
    drop = ("adapter.lora_dropout=0.1",)
    assert curve(lab, *drop) == curve(lab, *drop)
    assert curve(lab, *drop, "seed=1") != curve(lab, *drop, "seed=2")


def test_tensorboard(lab: Lab) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = lab.run("tracking=tensorboard", "trainer.max_steps=2")
    train(run)
    assert [p for p in (run.folder / "tensorboard").glob("events.out.*") if p.stat().st_size > 200]


def test_trackio(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    told = lab.tune("recipe=small", "tracking=trackio", "tracking.project=tests", "trainer.max_steps=2", "eval=none", "hub=none")
    assert told.returncode == 0, told.stderr
    assert [p for p in (tmp_path / "trackio").rglob("tests*.db") if p.stat().st_size > 200], [*(tmp_path / "trackio").rglob("*")]


def test_a_dashboard_that_is_not_installed_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(TuneError, match="tracking=trackio needs a package that is not installed") as caught:
        train(lab.run("tracking=trackio"))
    assert caught.value.code == 4
    assert "pip install 'tuner[trackio]'" in caught.value.problems[0].fix


@pytest.mark.slow
def test_wandb_offline(lab: Lab) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    run = lab.run("tracking=wandb", "tracking.project=tests", "trainer.max_steps=2")
    train(run)
    assert list((run.folder / "wandb").glob("offline-run-*/*.wandb"))


def test_the_stages_leave_their_files(lab: Lab) -> None:
    run = lab.run("trainer.max_steps=2", "hub=none")
    run.plan.write(run.folder / "plan.json")
    execute(run)
    for stage in run.plan.stages:
        assert stage.done, stage.name


@pytest.mark.parametrize(
    ("overlong", "rows", "counted"), [("truncate", 41, "rows_truncated"), ("drop", 40, "rows_dropped"), ("split", 43, "rows_split")]
)
def test_rows_beyond_the_maximum(lab: Lab, overlong: str, rows: int, counted: str) -> None:
    long = {"messages": [{"role": "user", "content": "z?"}, {"role": "assistant", "content": "z" * 100}]}
    with (lab.folder / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(long) + "\n")
    run = lab.run(f"data.overlong={overlong}", "task.max_length=50", "eval=none", "hub=none")
    execute(run, only=("prepare",))
    data, audit = (json.loads((run.stage_folder("prepare") / f"{name}.json").read_text()) for name in ("data", "audit"))
    assert data["train"]["rows"] == rows
    assert {key: audit[key] for key in ("rows_truncated", "rows_dropped", "rows_split")} == dict.fromkeys(
        ("rows_truncated", "rows_dropped", "rows_split"), 0
    ) | {counted: 1}


def test_all_rows_beyond_the_maximum_dropped_stops_the_run(lab: Lab) -> None:
    with pytest.raises(TuneError, match=r"all 40 rows are longer than task\.max_length and dropped") as caught:
        execute(lab.run("data.overlong=drop", "task.max_length=8", "eval=none", "hub=none"), only=("prepare",))
    assert caught.value.code == 3


def test_all_answers_empty_stops_the_run(lab: Lab) -> None:
    silent = {"messages": [{"role": "user", "content": "z?"}, {"role": "assistant", "content": " "}]}
    (lab.folder / "train.jsonl").write_text((json.dumps(silent) + "\n") * 5, encoding="utf-8")
    with pytest.raises(TuneError, match="all 5 rows have an empty answer"):
        execute(lab.run("eval=none", "hub=none"), only=("prepare",))


def test_a_loss_far_worse_than_chance_has_exploded(tmp_path: Path) -> None:
    """It starts high, so that many times its lowest would never be reached."""
    guard, args, control = LossGuard(20.0), TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    guard.on_train_begin(args, TrainerState(), control, model=fresh_base())
    for loss in (4.0, 9.0, 3.6):
        guard.on_log(args, TrainerState(), control, logs={"loss": loss})
    assert guard.chance == pytest.approx(math.log(258))
    with pytest.raises(TuneError, match=r"the loss has exploded: 12, after 3\.6 at its lowest") as caught:
        guard.on_log(args, TrainerState(), control, logs={"loss": 12.0})
    assert caught.value.code == 3


def test_held_out_loss_while_training_is_that_of_all_held_out_rows(lab: Lab) -> None:
    run = lab.run("trainer.eval_steps=1", "trainer.max_steps=1", "eval.limit=2")
    train(run)
    assert len(np.load(run.folder / "validation" / "ends.npy")) == 8, "eval.limit is no part of the training's key"


def test_wandb_without_a_key_is_told_before_training(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    told = lab.tune("check", "recipe=small", "tracking=wandb", WANDB_MODE="online", WANDB_API_KEY="", NETRC=str(tmp_path / "none"))
    assert (told.returncode, "wandb has no API key" in told.stdout + told.stderr) == (4, True)


def test_overflows_in_fp16_are_how_the_scale_is_found(tmp_path: Path) -> None:
    """Twenty on end are not; in other formats one is too many, as is a loss that is no number."""
    args, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    overflow = {"loss": 3.0, "grad_norm": math.inf}

    def guard(*, fp16: bool) -> LossGuard:
        found = LossGuard(20.0)
        args.fp16 = fp16
        found.on_train_begin(args, TrainerState(), control, model=fresh_base())
        return found

    halves = guard(fp16=True)
    for _ in range(20):
        halves.on_log(args, TrainerState(), control, logs=overflow)
    halves.on_log(args, TrainerState(), control, logs={"loss": 3.0, "grad_norm": 1.0})
    for _ in range(20):
        halves.on_log(args, TrainerState(), control, logs=overflow)
    with pytest.raises(TuneError, match="is not a number"):
        halves.on_log(args, TrainerState(), control, logs=overflow)
    with pytest.raises(TuneError, match="is not a number"):
        guard(fp16=True).on_log(args, TrainerState(), control, logs={"loss": math.nan})
    with pytest.raises(TuneError, match="is not a number"):
        guard(fp16=False).on_log(args, TrainerState(), control, logs=overflow)
