"""Every adapter: trained two steps on a real small model, just the right parameters move, and plain PEFT loads what was saved."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from tests.lab import Lab, losses_of, make_lab, task_of, tiny_tokenizer, train, weights_of
from tests.train.test_training import fresh_base, logits, moved, trained_model
from tuner.data.store import TokenRows
from tuner.errors import TuneError
from tuner.eval.loss import row_losses
from tuner.model.adapt import measuring
from tuner.pipeline import execute
from tuner.registry import load
from tuner.train.checkpoints import all_checkpoints, step_of

TWO_STEPS = ("trainer.max_steps=2", "trainer.warmup_ratio=0")
LINEAR = 7 * 2  # q k v o gate up down, in two layers

# Adapter, further overrides -> what moves (found in its name), how many parameters.
ADAPTERS: dict[str, tuple[list[str], str, int]] = {
    "lora": ([], r"\.lora_[AB]\.", 2 * LINEAR),
    "dora": ([], r"\.lora_", 3 * LINEAR),
    "rslora": ([], r"\.lora_[AB]\.", 2 * LINEAR),
    "lora_plus": ([], r"\.lora_[AB]\.", 2 * LINEAR),
    "pissa": (["adapter.r=4"], r"\.lora_[AB]\.", 2 * LINEAR),
    "olora": (["adapter.r=4"], r"\.lora_[AB]\.", 2 * LINEAR),
    "eva": (["adapter.r=4"], r"\.lora_[AB]\.", 2 * LINEAR),
    "adalora": ([], r"\.lora_[ABE]\.", 3 * LINEAR),
    "ia3": ([], r"\.ia3_l\.", 3 * 2),
    "vera": ([], r"\.vera_lambda_[bd]\.", 2 * LINEAR),
    "oft": (["adapter.oft_block_size=8"], r"\.oft_R\.", LINEAR),
    "boft": ([], r"\.boft_[Rs]\.", 2 * LINEAR),
    "layernorm": ([], r"\.ln_tuning_layers\.", 2 * 2 + 1),
    "prompt": (["adapter.num_virtual_tokens=5"], r"^prompt_encoder\.", 1),
    "prefix": (["adapter.num_virtual_tokens=5"], r"^prompt_encoder\.", 1),
    "p_tuning": (["adapter.num_virtual_tokens=5"], r"^prompt_encoder\.", 7),
}


@pytest.fixture
def lab(tmp_path: Any) -> Lab:
    return make_lab(tmp_path)


# PEFT's own patterns of ranks, which name parameters, where it looks for modules; it warns of every RMSNorm, and of BOFT without CUDA.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning", "ignore:Unsupported layer type:UserWarning")
@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension:UserWarning", "ignore:Setting boft_n_butterfly:UserWarning")
@pytest.mark.parametrize("name", ADAPTERS)
def test_just_the_right_parameters_move_and_plain_peft_loads_the_result(lab: Lab, name: str) -> None:
    more, pattern, count = ADAPTERS[name]
    run, before, model = trained_model(lab, *TWO_STEPS, f"adapter={name}", *more)
    changed = moved(before, model)
    assert len(changed) == count
    assert all(re.search(pattern, parameter) for parameter in changed), sorted(changed)
    after, base = logits(model), logits(fresh_base())
    assert not torch.allclose(after[:, -base.shape[1] :], base, atol=1e-3), "the adapter does something"
    loaded = PeftModel.from_pretrained(fresh_base(), str(run.folder))
    torch.testing.assert_close(logits(loaded), after, atol=2e-5, rtol=1e-4)
    measured = task_of(run).load(run, tuned=run.folder)
    torch.testing.assert_close(logits(measured), after, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_start_that_moved_the_base_is_saved_for_the_base_as_it_was(lab: Lab, name: str) -> None:
    """Switched off, the adapter leaves the base itself: PEFT would take the starting part out of it again."""
    run = lab.run(*TWO_STEPS, f"adapter={name}", "adapter.r=4")
    train(run)
    loaded = PeftModel.from_pretrained(fresh_base(), str(run.folder))
    config = loaded.active_peft_config
    assert (config.r, config.init_lora_weights) == (8, True)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(fresh_base()))


def at(folder: Any, *overrides: str) -> list[float]:
    train(run := folder.run(*overrides))
    return losses_of(run.folder)


def test_lora_plus_gives_the_second_matrix_its_own_rate(lab: Lab) -> None:
    from tuner.train.args import arguments

    run = lab.run("adapter=lora_plus", "adapter.loraplus_lr_ratio=4", "trainer.max_steps=2")
    task = task_of(run)
    task.prepare(run, load("tuner.data.splits").split(run)[0], run.stage_folder("prepare"))
    args = arguments(run.recipe, run.folder, run.device, rows=8)
    trainer = task.trainer(run, task.load(run, trainable=True), args, run.stage_folder("prepare"), [])
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(4e-2 if "lora_B" in name else 1e-2), name


def test_adalora_moves_rank_and_goes_on_where_it_was(lab: Lab, tmp_path: Any) -> None:
    """As many steps in one go as with a stop in the middle: the same losses, the same weights; and fewer ranks than it began with."""
    choice = (
        "adapter=adalora",
        "adapter.init_r=6",
        "adapter.target_r=2",
        "trainer.max_steps=8",
        "trainer.save_steps=3",
        "trainer.save_total_limit=9",
    )
    whole = lab.run(*choice, "name=whole")
    train(whole)
    ranks = json.loads((whole.folder / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(map(sum, ranks.values())) == 2 * LINEAR
    stopped = lab.run(*choice, "name=stopped")
    train(stopped)
    for checkpoint in all_checkpoints(stopped.folder / "checkpoints"):
        if step_of(checkpoint) > 3:
            shutil.rmtree(checkpoint)
    train(stopped)
    assert "going on from step 3 of 8" in lab.told
    assert losses_of(stopped.folder) == losses_of(whole.folder)
    first, second = weights_of(whole.folder), weights_of(stopped.folder)
    assert [n for n in first if not torch.equal(first[n], second[n])] == []


def test_micro_batches_change_no_adalora_loss(lab: Lab) -> None:
    whole = at(lab, "adapter=adalora", "trainer.max_steps=3", "name=a")
    assert at(lab, "adapter=adalora", "trainer.max_steps=3", "hardware.micro_batch_size=2", "name=b") == pytest.approx(whole, abs=2e-5)
    assert at(lab, "adapter=adalora", "trainer.max_steps=3", "trainer.padding_free=never", "name=c") == pytest.approx(whole, abs=2e-5)


def test_full_fine_tuning_freezes_and_unfreezes_by_pattern(lab: Lab) -> None:
    unfreeze, freeze = "adapter.unfreeze=['layers.1','norm']", "adapter.freeze=[mlp]"
    _, before, model = trained_model(lab, *TWO_STEPS, "adapter=full", unfreeze, freeze)
    assert moved(before, model) == {n for n in before if ("layers.1" in n or "norm" in n) and "mlp" not in n}


@pytest.mark.parametrize(
    ("override", "what"), [("adapter.freeze=[nothing]", "no parameter's name"), ("adapter.freeze=['.']", "every parameter")]
)
def test_patterns_that_leave_nothing_or_find_nothing_are_told(lab: Lab, override: str, what: str) -> None:
    with pytest.raises(TuneError, match=what) as caught:
        task_of(run := lab.run("adapter=full", override)).load(run, trainable=True)
    assert (caught.value.code, caught.value.problems[0].where) == (2, "adapter.freeze")


@pytest.mark.parametrize("more", ["adapter.use_dora=true", "adapter.bias=all", "adapter.modules_to_save=[norm]", "adapter=qlora"])
def test_a_start_that_moves_the_base_stands_alone(lab: Lab, more: str) -> None:
    with pytest.raises(TuneError, match="init_lora_weights=pissa"):
        lab.plan(*([] if "qlora" in more else ["adapter=pissa"]), more, "adapter.init_lora_weights=pissa")


def test_prompt_tuning_starts_from_words(lab: Lab) -> None:
    run = lab.run("adapter=prompt", "adapter.num_virtual_tokens=4", "adapter.prompt_tuning_init_text='<|im_start|>ab'")
    model = task_of(run).load(run, trainable=True)
    ids = tiny_tokenizer()("<|im_start|>ab<|im_start|>")["input_ids"]
    torch.testing.assert_close(
        model.prompt_encoder["default"].embedding.weight.data, fresh_base().get_input_embeddings().weight[ids].detach()
    )


def test_no_gradient_stops_at_the_first_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lab.run("trainer.max_steps=2")
    task = task_of(run)
    real = task.load

    def detached(run: Any, **options: Any) -> Any:
        model = real(run, **options)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.zeros_like)
        return model

    monkeypatch.setattr(task, "load", detached)
    with pytest.raises(TuneError, match="no gradient reaches what is trained") as caught:
        train(run)
    assert (caught.value.code, caught.value.problems[0].where) == (3, "training step 1")


def test_loftq_starts_nearer_to_the_base_than_quantising_leaves_it(lab: Lab) -> None:
    """And the result is an adapter for the base as it was: without training, none at all."""
    base = logits(fresh_base())
    ids = tiny_tokenizer()("<|im_start|>user\na1?<|im_end|>\n", return_tensors="pt")["input_ids"]
    lost = []
    for name in ("qlora", "loftq"):
        model = task_of(run := lab.run(f"adapter={name}", "adapter.r=8")).load(run, trainable=True)
        with torch.no_grad():
            lost.append(float((measuring(model)(ids).logits - base).norm()))
    assert lost[1] < 0.8 * lost[0]
    run = lab.run("adapter=loftq", "adapter.r=8", *TWO_STEPS)
    train(run)
    config = json.loads((run.folder / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (16, True)
    loaded = PeftModel.from_pretrained(fresh_base(), str(run.folder))
    plain = lab.run("adapter=lora", "adapter.r=8", *TWO_STEPS)
    train(plain)
    there = PeftModel.from_pretrained(fresh_base(), str(plain.folder))
    assert not torch.allclose(logits(loaded), base, atol=1e-3)
    assert (logits(loaded) - logits(there)).norm() < (logits(there) - base).norm(), "it learned what LoRA learns"


@pytest.mark.parametrize("name", ["pissa", "eva"])
def test_what_starts_elsewhere_goes_on_where_it_was(lab: Lab, name: str) -> None:
    choice = (f"adapter={name}", "adapter.r=4", "trainer.max_steps=4", "trainer.save_steps=2", "trainer.save_total_limit=9")
    whole, stopped = lab.run(*choice, "name=whole"), lab.run(*choice, "name=stopped")
    train(whole)
    train(stopped)
    shutil.rmtree(stopped.folder / "checkpoints" / "checkpoint-4")
    train(stopped)
    first, second = weights_of(whole.folder), weights_of(stopped.folder)
    assert [n for n in first if not torch.equal(first[n], second[n])] == []
    assert not (whole.folder / "initial").exists()


@pytest.mark.parametrize("name", ["prompt", "prefix", "p_tuning"])
def test_vectors_before_the_text_are_measured_with(lab: Lab, name: str) -> None:
    """The loss of held-out rows is that of the model with its vectors: as Transformers computes it, row by row."""
    run, _, model = trained_model(lab, *TWO_STEPS, f"adapter={name}")
    rows = TokenRows(run.stage_folder("prepare")).first(3)
    measured = row_losses(model.eval(), rows)
    for row, (total, count) in zip(rows, measured, strict=True):
        labels = torch.from_numpy(row.ids.astype("int64")).where(torch.from_numpy(row.trained), torch.tensor(-100))[None]
        with torch.inference_mode():
            ids = torch.from_numpy(row.ids.astype("int64"))[None]
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        assert total / count == pytest.approx(float(found.loss), abs=1e-5)


def test_trained_copies_are_fp32_under_autocast(lab: Lab) -> None:
    choice = ["model.dtype=bfloat16", "trainer.precision=bf16", "trainer.learning_rate=1e-6"]
    for more in (["adapter=layernorm"], ["adapter.modules_to_save=[norm]"]):
        run, before, _ = trained_model(lab, *TWO_STEPS, *choice, *more)
        saved = {n: w for n, w in weights_of(run.folder).items() if "norm" in n}
        assert {w.dtype for w in saved.values()} == {torch.float32}
        start = next(
            p.float() for n, p in before.items() if n.endswith("model.norm.modules_to_save.default.weight") or "model.norm.ln" in n
        )
        last = next(w for n, w in saved.items() if n.endswith("model.norm.weight") or "model.norm.ln" in n)
        assert 0 < (last - start).abs().max() < 1e-4, "steps that bf16 would swallow"


def test_a_result_that_loads_as_something_else_stops_the_run(lab: Lab) -> None:
    run = lab.run(*TWO_STEPS)
    run.plan.write(run.folder / "plan.json")
    execute(run, only=("prepare", "baseline", "train"))
    weights = weights_of(run.folder)
    save_file({n: w * 400 for n, w in weights.items()}, str(run.folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(TuneError, match="not what was trained") as caught:
        execute(lab.run(*TWO_STEPS))
    assert caught.value.code == 3
    save_file(weights, str(run.folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    execute(lab.run(*TWO_STEPS))
    assert any(line.startswith("the result was loaded: a loss of") for line in lab.told)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("name", ["prompt", "prefix", "p_tuning", "vera", "adalora", "qlora", "full"])
def test_whole_runs(lab: Lab, name: str) -> None:
    """From rows to a published folder, in bf16 as a person runs it."""
    run = lab.run(*TWO_STEPS, f"adapter={name}", "model.dtype=bfloat16", "trainer.precision=bf16")
    run.plan.write(run.folder / "plan.json")
    execute(run)
    assert all(stage.done for stage in run.plan.stages)
    assert any(line.startswith("the result was loaded") for line in lab.told)


def test_measuring_a_quantised_model_while_it_trains_changes_no_step(lab: Lab) -> None:
    """In eval bitsandbytes would repack 4-bit weights for the CPU, and no gradient would come through them again."""
    choice = ("adapter=qlora", "trainer.max_steps=4", "trainer.warmup_ratio=0")
    assert at(lab, *choice, "trainer.eval_steps=1", "name=measured") == at(lab, *choice, "name=plain")


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["adapter.rank_pattern={q_prj: 4}"], "adapter.rank_pattern"),
        (["adapter.exclude_modules=[nothing]"], "adapter.exclude_modules"),
        (["adapter.layers_to_transform=[7]"], "adapter.layers_to_transform"),
        (["adapter=ia3", "adapter.feedforward_modules=[q_proj]"], "adapter.feedforward_modules"),
        (["adapter=oft", "adapter.oft_block_size=5"], "adapter.oft_block_size"),
        (["adapter=boft", "adapter.boft_block_size=3"], "adapter.boft_block_size"),
        (["adapter=vera", "adapter.target_modules=[nope]"], "adapter.target_modules"),
        (["adapter=layernorm", "adapter.target_modules=[nope]"], "adapter.target_modules"),
    ],
)
def test_what_peft_would_pass_over_or_change_is_an_error(lab: Lab, overrides: list[str], where: str) -> None:
    run = lab.run(*overrides)
    with pytest.raises(TuneError, match=r"does not fit the model|the model has no") as caught:
        task_of(run).possible(run)
    assert (caught.value.code, caught.value.problems[0].where) == (2, where)


def test_blocks_of_the_model_can_be_chosen(lab: Lab) -> None:
    _, before, model = trained_model(lab, *TWO_STEPS, "adapter.layers_to_transform=[1]")
    assert moved(before, model) == {n for n in before if "lora_" in n and "layers.1." in n}
    with pytest.raises(TuneError, match="two ways to choose blocks"):
        lab.plan("adapter.layers_to_transform=[1]", "adapter.target_modules='.*q_proj'")


def test_adalora_needs_ranks_and_steps_to_cut(lab: Lab) -> None:
    with pytest.raises(TuneError, match="AdaLoRA cuts ranks"):
        lab.plan("adapter=adalora", "adapter.target_r=12")
    with pytest.raises(TuneError, match="no step to cut ranks: 5 before and 0 after, of 2") as caught:
        train(lab.run("adapter=adalora", "adapter.tinit=5", *TWO_STEPS))
    assert caught.value.code == 2
