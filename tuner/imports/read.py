"""From a peer's file to a draft and to a recipe's text: `convert(read_config(path), peer, devices=8)`, `recipe_text(draft, …)`."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import TuneError, nearest
from tuner.imports import axolotl, llamafactory, trl
from tuner.imports.draft import Draft, Line, Peer, State
from tuner.registry import kinds
from tuner.schema.describe import variant_of
from tuner.schema.recipe import DEFAULTS, GROUPS
from tuner.schema.walk import all_keys

PEERS: dict[str, Peer] = {peer.name: peer for peer in (axolotl.PEER, llamafactory.PEER, trl.PEER)}
MEANT = {"lora_rank": "lora_r", "lora_r": "lora_rank", "lr": "learning_rate", "epochs": "num_train_epochs"}  # by whoever knows one of them
LORA_ONLY = ("lora_", "peft_", "loraplus", "use_rslora", "use_dora", "pissa")
EPSILON_LOSS = {"sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "orpo": 1e-6, "cpo": 1e-6, "reward": 1e-4}  # TRL's learning rates


def read_config(path: Path) -> dict[str, Any]:
    """A mapping from YAML or JSON, or from a recorded command line. Raises TuneError (code 2)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"cannot read the file: {error}", str(path), "name a YAML or JSON file, or one with a command line") from error
    if found := re.search(r"\btrl (sft|dpo|kto|orpo|cpo|reward|grpo|rloo)\b(.*)", text.replace("\\\n", " "), re.DOTALL):
        return {trl.TASK: found[1], **_arguments(shlex.split(found[2], comments=True))}
    try:
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(re.sub(r"(?m)(:\s+\d+)e(-?\d)", r"\1.0e\2", text))
    except (yaml.YAMLError, ValueError) as error:
        raise TuneError(f"neither YAML nor JSON: {error}", str(path), "name a configuration of axolotl, LLaMA-Factory or TRL") from error
    if not isinstance(config, dict):
        raise TuneError("not a mapping of keys to values", str(path), "name a configuration of axolotl, LLaMA-Factory or TRL")
    return config


def _arguments(words: list[str]) -> dict[str, Any]:
    """`--a 1 --b=x --c` as a mapping."""
    found: dict[str, Any] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found[key] = _value(value) if equals else True
        elif key:
            found[key] = (
                _value(word) if found[key] is True else [*(found[key] if isinstance(found[key], list) else [found[key]]), _value(word)]
            )
    return found


def _value(word: str) -> Any:
    try:
        return float(word) if re.fullmatch(r"-?[\d.]+e-?\d+", word) else yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def which(config: dict[str, Any], named: str) -> Peer:
    """The peer that was named, or the one whose own keys the file has. Raises TuneError (code 2)."""
    if named:
        if named not in PEERS:
            raise TuneError(f"unknown tool `{named}`", f"--from {named}", f"say one of: {', '.join(PEERS)}")
        return PEERS[named]
    counts = {name: len(peer.marks & set(config)) for name, peer in PEERS.items()}
    best = sorted(counts, key=lambda name: -counts[name])
    if counts[best[0]] == counts[best[1]]:
        raise TuneError(
            "whose configuration it is cannot be told from its keys", ", ".join(list(config)[:6]), f"add `--from {'|'.join(PEERS)}`"
        )
    return PEERS[best[0]]


def convert(config: dict[str, Any], peer: Peer, *, devices: int) -> Draft:
    """Go through every line. What the peer takes where nothing is written is put too."""
    draft = Draft(config=config, peer=peer.name, devices=devices)
    first = [key for key in ("rl", "stage", trl.TASK, "adapter", "finetuning_type", "use_peft") if key in peer.rules]
    if peer.name == "trl" and trl.TASK not in config:
        config[trl.TASK] = _trainer(config)
        draft.notes.append(
            f"the file does not say the trainer: taken for `trl {config[trl.TASK]}`; else name it in a file with the command line"
        )
    order = [key for key in first if key in config] + [key for key in config if key not in first]
    for key, value in ((key, peer.implied[key]) for key in first if key in peer.implied and key not in config):
        _apply(draft, peer, key, value, implying=True)
    for key in order:
        _line(draft, peer, key, config[key])
    for key, value in peer.implied.items():
        covered = key in config or key in first or (key == "warmup_ratio" and "warmup_steps" in config)
        full = draft.options.get("adapter") == "full" and key.startswith(LORA_ONLY)
        if not covered and not full and not (key == "num_train_epochs" and draft.values.get("trainer.max_steps")):
            value = EPSILON_LOSS.get(config.get(trl.TASK, ""), value) if key == "learning_rate" and peer.name == "trl" else value
            _apply(draft, peer, key, value, implying=True)
    _alpha(draft)
    if devices > 1 and "hardware" not in draft.options:
        draft.options["hardware"] = "ddp"
    if devices > 1:
        draft.values["hardware.num_processes"] = devices
    return draft


def _trainer(config: dict[str, Any]) -> str:
    """The trainer that a TRL file is for, by its keys."""
    told = {"desirable_weight": "kto", "undesirable_weight": "kto", "center_rewards_coefficient": "reward", "num_generations": "grpo"}
    return next((task for key, task in (told | {"beta": "dpo", "precompute_ref_log_probs": "dpo"}).items() if key in config), "sft")


def _alpha(draft: Draft) -> None:
    """LLaMA-Factory's `lora_alpha` is twice the rank where it is not said."""
    if draft.peer == "llamafactory" and "lora_alpha" not in draft.config and "adapter.r" in draft.values:
        draft.values["adapter.lora_alpha"] = 2 * int(draft.values["adapter.r"])
    for key in [k for k in draft.values if k.startswith("adapter.") and draft.options.get("adapter") == "full"]:
        if key not in ("adapter.unfreeze", "adapter.freeze"):
            del draft.values[key]


def _line(draft: Draft, peer: Peer, key: str, value: Any) -> None:
    if key not in peer.keys:
        guess = nearest(key, sorted(peer.keys), synonyms=MEANT)
        note = peer.unknown + (f"; did you mean `{guess}`?" if guess else "")
        draft.lines.append(Line(state=State.ignored, key=key, value=value, note=note))
    elif key in peer.rules and draft.options.get("adapter") == "full" and key.startswith(LORA_ONLY):
        draft.lines.append(Line(state=State.ignored, key=key, value=value, note="the whole model is trained there: no LoRA reads it"))
    elif key not in peer.rules:
        draft.leave(key, value, peer.left.get(key, "no counterpart here"))
    elif value is None and key not in peer.implied:
        draft.same(key, value, "not set")
    else:
        _apply(draft, peer, key, value, implying=False)


def _apply(draft: Draft, peer: Peer, key: str, value: Any, *, implying: bool) -> None:
    draft.implying = implying
    rule = peer.rules[key]
    if not callable(rule):
        draft.put(key, value, rule, value)
    else:
        rule(draft, key, value)


def recipe_text(draft: Draft, *, title: str) -> str:
    """The recipe: only what differs from our defaults, a line a section."""
    options = {group: option for group, option in draft.options.items() if option != DEFAULTS[group]}
    variants = {group: variant_of(group, draft.options.get(group, DEFAULTS[group])) for group in GROUPS if kinds(group)}
    known = all_keys({group: name for group, name in variants.items() if name})
    sections: dict[str, Any] = {}
    for key, value in draft.values.items():
        group, _, name = key.partition(".")
        if key not in known:
            draft.leave(key, value, f"`{key}` does not exist for {group}={draft.options.get(group, DEFAULTS.get(group, ''))}")
            continue
        field = known[key][1]
        default = field.default if field.default is not dataclasses.MISSING else None
        if value != default and name:
            sections.setdefault(group, {})[name] = value
        elif value != default:
            sections[key] = value
    lines = [f"# {title}"]
    if options:
        lines += ["defaults:", *(f"  - {group}: {option}" for group, option in options.items())]
    for group, value in sections.items():
        lines.append(yaml.safe_dump({group: value}, default_flow_style=None, width=10_000, sort_keys=False, allow_unicode=True).rstrip())
    return "\n".join(lines) + "\n"
