"""What each `hardware=…` gives Accelerate and Transformers, by constructing it; and what contradicts itself, refused in the plan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from tests.lab import make_lab
from tuner.errors import ENVIRONMENT, TuneError
from tuner.memory import HOST, Load, cuts, need
from tuner.schema.hardware import Ddp, DeepSpeed, Fsdp, Hardware, OneDevice
from tuner.schema.recipe import Recipe
from tuner.train import placing
from tuner.train.args import arguments, micro_batch
from tuner.train.strategies import deepspeed, fsdp
from tuner.train.together import came_up, complete

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    lab = make_lab(tmp_path)
    return lambda *overrides: lab.plan("hardware.device=auto", *overrides).load_recipe()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_DEEPSPEED", "FSDP_VERSION"):
        monkeypatch.delenv(name, raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def made(recipe: Recipe, processes: int = 8) -> Any:
    """TrainingArguments as the ranks make them."""
    return arguments(recipe, Path("unused"), CPU, rows=64, processes=processes)


def test_ddp_holds_what_the_recipe_says(recipe: Any) -> None:
    args = made(recipe("hardware=ddp", "hardware.num_processes=4", "hardware.bucket_cap_mb=50", "trainer.batch_size=16"), 4)
    assert (args.ddp_bucket_cap_mb, args.ddp_find_unused_parameters, args.ddp_static_graph) == (50, False, None)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 1), "16 rows over four devices"
    args = made(recipe("hardware=ddp", "hardware.micro_batch_size=1", "trainer.batch_size=16", "hardware.static_graph=true"), 4)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.ddp_static_graph) == (1, 4, True)


def plugin(args: Any) -> Any:
    """The one that Transformers hands to Accelerate."""
    return FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)


def test_fsdp_holds_what_the_recipe_says(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    args = made(recipe("hardware=fsdp", "trainer.precision=bf16", "trainer.activation_checkpointing=true"))
    found = plugin(args)
    assert (found.fsdp_version, found.reshard_after_forward, found.activation_checkpointing) == (2, True, True)
    assert found.auto_wrap_policy is transformer_auto_wrap_policy
    assert isinstance(found.cpu_offload, OffloadPolicy)
    assert not isinstance(found.cpu_offload, CPUOffloadPolicy)
    assert found.cpu_ram_efficient_loading
    assert found.mixed_precision_policy == MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found.set_mixed_precision("bf16")  # as Accelerate does
    assert found.mixed_precision_policy.reduce_dtype is torch.float32
    assert "FULL" in str(found.state_dict_type)
    assert not args.activation_checkpointing, "recomputation is FSDP's own"
    options = ("hardware.state_dict_type=sharded", "hardware.reshard_after_forward=false", "hardware.cpu_ram_efficient_loading=false")
    found = plugin(made(recipe("hardware=fsdp_offload", *options)))
    assert isinstance(found.cpu_offload, CPUOffloadPolicy)
    assert "SHARDED" in str(found.state_dict_type)
    assert (found.reshard_after_forward, found.cpu_ram_efficient_loading, found.activation_checkpointing) == (False, False, False)
    assert fsdp.STRATEGY.environment(Fsdp()) == {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    }


def test_the_mesh_of_hybrid_tensor_and_context_parallel(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsdp, "world_size", lambda: 8)
    args = made(recipe("hardware=fsdp", "hardware.dp_replicate_size=2"))
    layout = args.parallelism_config
    assert (layout.dp_replicate_size, layout.dp_shard_size, layout.tp_size, layout.cp_size) == (2, 4, 1, 1)
    context = recipe("hardware=context_parallel", "trainer.precision=bf16", "trainer.batch_size=8")
    args = made(context)
    layout = args.parallelism_config
    assert (layout.dp_shard_size, layout.cp_size, layout.cp_backend, layout.total_size) == (4, 2, "torch", 8)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 2, "eight rows over four groups of two"
    tensors = recipe("hardware=tensor_parallel", "adapter=full", "trainer.save_steps=0")
    assert "fsdp" not in fsdp.STRATEGY.arguments(tensors), "Transformers cuts it as it loads"
    layout = fsdp.STRATEGY.loading(tensors.hardware)["distributed_config"]
    assert (layout.tp_size, layout.fsdp_size, layout.dp_replicate_size, layout.dp_size) == (2, 4, 1, 4)
    assert fsdp.STRATEGY.loading(Fsdp()) == {}


def test_deepspeed_holds_what_the_recipe_says(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setattr(deepspeed, "world_size", lambda: 8)
    options = ("trainer.precision=bf16", "trainer.max_grad_norm=0.5", "trainer.batch_size=16", "hardware.micro_batch_size=1")
    args = made(recipe("hardware=zero3_offload", *options))
    found: Any = args.deepspeed_plugin
    assert isinstance(found, DeepSpeedPlugin)
    assert (found.zero_stage, found.offload_optimizer_device, found.offload_param_device) == (3, "cpu", "cpu")
    assert found.zero3_save_16bit_model
    config = found.hf_ds_config.config
    assert config["bf16"]["enabled"]
    assert not config["fp16"]["enabled"]
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"], config["gradient_clipping"]) == (1, 2, 0.5)
    two = made(recipe("hardware=deepspeed", "trainer.precision=fp32")).deepspeed_plugin
    assert (two.zero_stage, two.offload_optimizer_device, two.offload_param_device) == (2, "none", "none")
    assert not two.hf_ds_config.config["bf16"]["enabled"]
    long = recipe("hardware=sequence_parallel", "trainer.precision=bf16", "task.max_length=4096", "trainer.padding_free=never")
    layout = deepspeed.STRATEGY.arguments(long)["parallelism_config"]
    assert (layout.sp_size, layout.sp_backend, layout.dp_replicate_size) == (2, "deepspeed", 4)
    assert (layout.sp_handler.sp_seq_length, layout.sp_handler.sp_attn_implementation) == (4096, "sdpa")


def test_deepspeed_that_is_not_installed_is_told(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(deepspeed, "load", missing)
    with pytest.raises(TuneError, match="needs DeepSpeed"):
        made(recipe("hardware=zero1"))


@pytest.mark.parametrize(
    ("hardware", "found", "fine"),
    [
        (OneDevice(), "NO", True),
        (Ddp(), "MULTI_CPU", True),
        (Fsdp(), "FSDP", True),
        (Fsdp(), "MULTI_CPU", False),
        (Fsdp(), "MULTI_GPU", False),
        (Fsdp(tp_size=2), "MULTI_GPU", True),
        (DeepSpeed(), "DEEPSPEED", True),
        (DeepSpeed(), "MULTI_GPU", False),
        (Ddp(), "FSDP", False),
    ],
)
def test_another_strategy_than_was_asked_for_is_an_error(hardware: Hardware, found: str, fine: bool) -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(distributed_type=DistributedType(found)))
    if fine:
        came_up(hardware, trainer)
        return
    with pytest.raises(TuneError, match=f"was asked for, and Accelerate has set up {found}") as caught:
        came_up(hardware, trainer)
    assert caught.value.code == ENVIRONMENT


def test_fewer_processes_than_were_started_are_an_error() -> None:
    complete(1)
    with pytest.raises(TuneError, match="2 processes were started, and 1 of them train together"):
        complete(2)


CUT = [
    (Ddp(), (1, 1, 1, 1, False)),
    (Fsdp(), (8, 8, 8, 1, True)),
    (Fsdp(reshard_after_forward=False), (1, 8, 8, 1, False)),
    (Fsdp(dp_replicate_size=2), (4, 4, 4, 1, True)),
    (Fsdp(cpu_offload=True), (HOST, HOST, HOST, 1, True)),
    (Fsdp(cp_size=2), (8, 8, 8, 2, True)),
    (DeepSpeed(zero_stage=1), (1, 1, 8, 1, False)),
    (DeepSpeed(), (1, 8, 8, 1, False)),
    (DeepSpeed(zero_stage=3), (8, 8, 8, 1, True)),
    (DeepSpeed(zero_stage=3, offload_param=True, offload_optimizer=True, sp_size=4), (HOST, 8, HOST, 4, True)),
]


@pytest.mark.parametrize(("hardware", "expected"), CUT, ids=[str(i) for i in range(len(CUT))])
def test_what_the_memory_plan_cuts_over_eight(hardware: Hardware, expected: tuple[int, int, int, int, bool]) -> None:
    found = cuts(hardware, 8)
    assert (found.weights, found.gradients, found.optimizer, found.tokens, found.gathered) == expected


def test_gathered_blocks_and_cut_rows_are_counted(recipe: Any) -> None:
    """FSDP over eight: an eighth of the weights, with two blocks, embedding and head whole; half the activations of half the row."""
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128}
    shape |= {"vocab_size": 1000, "tie_word_embeddings": True}  # type: ignore[dict-item]
    full = recipe("adapter=full", "trainer.precision=bf16", "trainer.padding_free=never")
    whole, cut, halved = (need(full, shape, Load(rows=4, length=128, cpu=False, cuts=cuts(h, 8))) for h in (Ddp(), Fsdp(), Fsdp(cp_size=2)))
    assert whole
    assert cut
    assert halved
    block = 4 * 64 * 64 + 3 * 64 * 128
    assert cut.weights == pytest.approx(whole.weights / 8 + 2.0 * (2 * block + 64_000), rel=1e-6)
    assert cut.optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert halved.logits == pytest.approx(cut.logits / 2, rel=0.01)
    assert halved.activations == pytest.approx(cut.activations / 2, rel=0.01)


def test_a_batch_that_cannot_be_shared(recipe: Any) -> None:
    one = recipe("hardware=ddp", "trainer.batch_size=6")
    with pytest.raises(TuneError, match="no multiple of 4 devices × 1 rows"):
        micro_batch(one.trainer, one.hardware, CPU, 4)


def test_the_memory_plan_gives_each_process_its_part(recipe: Any, tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "other")
    run = lab.run("hardware=ddp", "hardware.device=cpu", "hardware.num_processes=2", "trainer.batch_size=8")
    run.world = 2
    assert placing.placed(run, placing.dimensions(run), 64).hardware.micro_batch_size == 4


REFUSED = [
    ("hardware=ddp hardware.device=mps", "a Mac has one"),
    ("hardware=fsdp hardware.device=cpu", "Accelerate does not do it on CPUs"),
    ("hardware=ddp hardware.device=cpu", "a CPU does not say how many"),
    ("hardware=ddp hardware.num_processes=3", "cannot be shared by 3 devices"),
    ("hardware=ddp hardware.num_processes=4 hardware.micro_batch_size=4", "cannot be shared by 4 devices × 4 rows"),
    ("hardware=fsdp hardware.num_processes=6 hardware.dp_replicate_size=4", "no multiple of 4"),
    ("hardware=fsdp adapter=adalora", "AdaLoRA chooses ranks"),
    ("hardware=fsdp adapter=pissa", "looks at whole weights"),
    ("hardware=zero3 adapter=eva", "looks at whole weights"),
    ("hardware=fsdp adapter=qlora8", "int8 weights cannot be cut"),
    ("hardware=zero3 adapter=qlora", "before they can be quantised"),
    ("hardware=fsdp trainer.optim=muon", "works on whole tensors"),
    ("hardware=fsdp trainer.optim=paged_adamw_8bit", "works on whole tensors"),
    ("hardware=fsdp trainer.ema_decay=0.9", "an average is kept of whole weights"),
    ("hardware=fsdp trainer.activation_checkpointing=true trainer.checkpoint_every_n_layers=2", "FSDP recomputes each block"),
    ("hardware=fsdp trainer.activation_checkpointing=true trainer.activation_offloading=true", "gathers and recomputes"),
    ("hardware=zero2 hardware.offload_param=true", "ZeRO 2 does not cut weights"),
    ("hardware=zero2 trainer.optim=schedule_free_adamw trainer.lr_scheduler_type=constant", "must be told when to average"),
    ("hardware=zero2 debug=lr", "sets the rates of an optimizer"),
    ("hardware=fsdp model.add_tokens=[plus]", "rows of an embedding"),
    ("hardware=context_parallel trainer.padding_free=always trainer.precision=bf16", "cuts padded rows"),
    ("hardware=context_parallel task.packing=true trainer.precision=bf16", "where a packed row's conversations end"),
    ("hardware=context_parallel trainer.precision=fp32", "ring attention has no fp32"),
    ("hardware=tensor_parallel trainer.save_steps=0", "an adapter's are not"),
    ("hardware=tensor_parallel adapter=full", "cannot write checkpoints"),
    ("hardware=sequence_parallel data.streaming=true trainer.max_steps=4 trainer.precision=bf16", "a stream gives each process"),
]


def test_a_precision_that_the_weights_undo_is_refused(recipe: Any) -> None:
    for precision in ("fp32", "tf32"):
        with pytest.raises(TuneError, match="nothing casts its weights"):
            recipe(f"trainer.precision={precision}", "model.dtype=bfloat16")
        recipe(f"trainer.precision={precision}", "model.dtype=float32")
        recipe(f"trainer.precision={precision}", "model.dtype=bfloat16", "adapter=full")


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[o for o, _ in REFUSED])
def test_what_contradicts_itself_is_refused_in_the_plan(overrides: str, words: str, recipe: Any) -> None:
    with pytest.raises(TuneError) as caught:
        recipe(*(part.strip("'") for part in overrides.split()))
    assert words in str(caught.value)
    assert caught.value.code == 2
