"""What an adapter names must be there, and what it starts from must be possible: told before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.lab import RECIPE, Lab, make_lab, task_of, tiny_model, train, weights_of
from tuner.context import Run
from tuner.dimensions import trainable
from tuner.errors import TuneError
from tuner.model.load import load_base
from tuner.pipeline import execute
from tuner.schema.adapter import Full, Lora

BARE = ("trainer.max_steps=2", "eval.enabled=false", "hub.enabled=false")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


REFUSED = [
    ("adapter.target_modules=[q_proj,nope]", "the model has no module `nope`", "down_proj"),
    ("adapter.target_modules=[]", "`adapter.target_modules` is empty", "all-linear"),
    ("adapter.target_modules=q_proj", "q_proj", "a name stands in a list: `[q_proj]`"),
    ("adapter.exclude_modules=[nope]", "the model has no module `nope`", "down_proj"),
    ("adapter.layers_to_transform=[0,7]", "the model has no block 7", "from 0 to 1"),
    ("adapter.rank_pattern={q_proj: 0}", "whole number from 1 on", ""),
    ("adapter=pissa adapter.r=64", "starts from 64 parts of a weight", "lower it to 16"),
    ("adapter=olora adapter.r=64", "starts from 64 parts of a weight", "lower it to 16"),
    ("adapter=eva adapter.r=64", "starts from 64 parts of a weight", "lower it to 16"),
    ("adapter=pissa adapter.target_modules=[q_proj,lm_head]", "which is the embedding as well", "leave it out"),
    ("adapter=qlora adapter.init_lora_weights=eva", "EVA makes its matrices anew", "adapter=eva"),
    ("adapter.init_lora_weights=orthogonal adapter.r=15", "the rank is odd", "make it even"),
    ("adapter=eva model.add_tokens=[plus]", "without the rows of new tokens", "adapter=lora"),
    ("model.add_tokens=[plus] adapter.modules_to_save=[lm_head]", "holds the rows of new tokens", "leave"),
    ("model.add_tokens=[plus] adapter.target_modules=[embed_tokens,q_proj]", "holds the rows of new tokens", "leave"),
    ('model.add_tokens=[""]', "a token of `model.add_tokens` is empty", "leave it out"),
    ("trainer.activation_checkpointing=true adapter=prefix", "a prefix stands in the cache", "adapter=lora"),
    ("trainer.optim=sgd trainer.optim_args={nesterov: true}", "Nesterov's step needs `momentum`", "momentum: 0.9"),
    ("trainer.optim=galore_adamw adapter=full trainer.optim_args={rank: 8.0}", "a whole number", ""),
    ("seed=5000000000", "seed", ""),
    ("trainer.num_train_epochs=1e30", "num_train_epochs", ""),
    ("hardware.num_threads=100000", "num_threads", ""),
    ("trainer.load_best_model_at_end=true trainer.eval_steps=100", "nothing is ever measured", "lower it"),
    ("adapter=adalora adapter.tinit=1 adapter.tfinal=1", "no step to cut ranks", "train longer"),
    ("hardware.fused_kernels=always", "no fused kernels", "auto"),
    ("model.attn_implementation=flash_attention_2", "cannot make the model", "leave `model.attn_implementation` out"),
    ("trainer.activation_checkpointing=true trainer.activation_offloading=true", "this run is in it", "leave it out"),
]


def words(overrides: str) -> list[str]:
    """Overrides, of which a mapping may hold spaces."""
    found: list[str] = []
    for part in overrides.split(" "):
        if found and found[-1].count("{") > found[-1].count("}"):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def ask(lab: Lab, *overrides: str) -> None:
    """Whether it can be trained."""
    run = lab.run(*BARE, *overrides)
    task_of(run).possible(run)


def finished(lab: Lab, *overrides: str) -> Run:
    """A run to its end, with its plan beside it."""
    run = lab.run(*overrides)
    run.plan.write(run.folder / "plan.json")
    execute(run)
    return run


@pytest.mark.parametrize(("overrides", "what", "fix"), REFUSED, ids=[o for o, _, _ in REFUSED])
def test_it_is_told_before_anything_is_measured(overrides: str, what: str, fix: str, lab: Lab) -> None:
    if torch.cuda.is_available() and "fused" in overrides:
        pytest.skip("a GPU is here")
    with pytest.raises(TuneError) as caught:
        ask(lab, *words(overrides))
    problem = caught.value.problems[0]
    assert what in problem.what
    assert fix in (problem.fix or "")
    assert caught.value.code in (2, 4)


def test_adalora_trains_no_number_of_ranks_on_a_narrow_base(lab: Lab) -> None:
    """PEFT makes it a parameter that requires a gradient wherever the base is not fp32; it divides the update, and is not saved."""
    run = lab.run(*BARE, "adapter=adalora", "model.dtype=bfloat16", "trainer.precision=bf16")
    model: Any = task_of(run).load(run, trainable=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not [name for name in trained if "ranknum" in name]
    counts = train(run)
    assert counts["parameters"] == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_model()).parameters())


def test_new_tokens_start_as_the_mean_also_in_rows_that_were_kept_free(lab: Lab, tmp_path: Path) -> None:
    """Qwen's embedding has more rows than its tokenizer has tokens."""
    padded: Any = AutoModelForCausalLM.from_pretrained(tiny_model())
    known = padded.get_input_embeddings().weight.shape[0]
    padded.resize_token_embeddings(known + 40, mean_resizing=False)
    with torch.no_grad():
        padded.get_input_embeddings().weight[known:] = 0
    folder = tmp_path / "padded"
    padded.save_pretrained(str(folder))
    for path in tiny_model().iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    run = lab.run(*BARE, f"model.id={folder}", "model.add_tokens=[plus]")
    made: Any = load_base(run.recipe.model, torch.device("cpu"), progress=lambda text: None)
    weight = made.get_input_embeddings().weight
    assert weight.shape[0] == known + 40
    torch.testing.assert_close(weight[known], weight[:known].mean(0))


def test_an_adapter_with_new_tokens_is_gone_on_with(lab: Lab) -> None:
    tokens = "model.add_tokens=[plus,minus]"
    first = finished(lab, "trainer.max_steps=2", "eval.enabled=false", "hub.enabled=false", tokens, "name=first")
    then = lab.run(*BARE, tokens, "adapter.continue_from=run:first", "name=then")
    model: Any = task_of(then).load(then, trainable=True)
    rows = next(p for name, p in model.named_parameters() if "trainable_tokens_delta" in name)
    saved = next(v for name, v in weights_of(first.folder).items() if "token" in name)
    torch.testing.assert_close(rows.detach().float(), saved.float())


def test_an_adapter_of_another_base_is_not_gone_on_with(lab: Lab) -> None:
    finished(lab, *BARE, "name=first")
    with pytest.raises(TuneError, match=r"is for a base with `model\.run` null"):
        ask(lab, "model=run:first", "adapter.continue_from=run:first", "name=then")
    with pytest.raises(TuneError) as caught:
        ask(lab, "adapter=dora", "adapter.continue_from=run:first", "name=then")
    assert caught.value.problems[0].fix == "set it to false"


def test_ranks_that_eva_found_are_taken_over(lab: Lab) -> None:
    first = finished(lab, *BARE, "adapter=eva", "adapter.r=4", "name=first")
    assert json.loads((first.folder / "adapter_config.json").read_text())["rank_pattern"]
    then = lab.run(*BARE, "adapter.r=4", "adapter.continue_from=run:first", "name=then")
    task_of(then).load(then, trainable=True)


def test_a_run_that_failed_its_gate_or_was_a_look_starts_no_other(lab: Lab) -> None:
    first = finished(lab, *BARE, "name=first")
    state = {"status": "failed", "stage": "evaluate", "reason": "the saved result is not what was trained"}
    (first.folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(TuneError, match="failed after its training: the saved result is not"):
        lab.run(*BARE, "model=run:first", "name=then")
    look = finished(lab, "debug=overfit", "debug.steps=3", "debug.share=0.99", "name=seen")
    with pytest.raises(TuneError, match=r"is a look \(debug=overfit\)"):
        lab.run(*BARE, f"model=run:{look.plan.name}", "name=then")


def test_what_is_trained_is_counted_by_block_and_name() -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
    shape |= {"vocab_size": 10, "tie_word_embeddings": True}  # type: ignore[dict-item]
    one = trainable(Lora(r=1, target_modules=["q_proj"]), shape)
    assert one == 4 * 16
    assert trainable(Lora(r=1, target_modules=["q_proj"], layers_to_transform=[0, 2]), shape) == 2 * 16
    assert trainable(Lora(r=1, target_modules=["q_proj", "up_proj"], exclude_modules=["up_proj"]), shape) == one
    for unknown in (
        Lora(target_modules=None),
        Lora(rank_pattern={"q_proj": 2}),
        Lora(exclude_modules=".*layers.0.*"),
        Full(freeze=["mlp"]),
    ):
        assert trainable(unknown, shape) is None


def test_a_typed_option_comes_before_the_recipe(lab: Lab) -> None:
    """The recipe of the lab says `hardware: {device: cpu}`."""
    assert lab.plan("hardware=cuda").recipe["hardware"]["device"] == "cuda"
    assert lab.plan().recipe["hardware"]["device"] == "cpu"
    assert lab.plan("hardware=cuda", "hardware.device=mps").recipe["hardware"]["device"] == "mps"
    other = make_lab(lab.folder / "other", recipe=RECIPE + "adapter: {use_dora: false, r: 4}\n")
    found = other.plan("adapter=dora").recipe["adapter"]
    assert (found["use_dora"], found["r"]) == (True, 4)


def test_a_base_that_gives_no_number_is_told(lab: Lab, tmp_path: Path) -> None:
    broken: Any = AutoModelForCausalLM.from_pretrained(tiny_model())
    with torch.no_grad():
        broken.get_input_embeddings().weight[:] = float("nan")
    folder = tmp_path / "broken"
    broken.save_pretrained(str(folder))
    for path in tiny_model().iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TuneError, match="is not a number"):
        execute(lab.run(f"model.id={folder}", "eval.generate=false"), only=("prepare", "baseline"))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # in a checkpoint
def test_a_tied_head_is_not_merged_into_the_embedding(lab: Lab) -> None:
    finished(lab, *BARE, "adapter.target_modules=[q_proj,lm_head]", "name=first")
    with pytest.raises(TuneError, match="which is the embedding as well: merged, both would change"):
        ask(lab, "model=run:first", "name=then")
