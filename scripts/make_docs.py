"""Writes the generated pages of docs/ from the code: `python scripts/make_docs.py` (or `--check`: exit 1 when one is stale).

cli.md comes from the table of verbs and their docstrings, reference.md and
transforms.md from the schema's dataclasses, coming-from.md from the synonyms,
and the list in recipes.md from the shipped recipes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tuner.cli import FLAGS
from tuner.commands import VERBS
from tuner.registry import kinds, load
from tuner.schema import synonyms
from tuner.schema.describe import Key, describe, describe_option, keys_below, sections
from tuner.schema.documents import SHIPPED_RECIPES, list_options, read
from tuner.schema.recipe import DEFAULTS, GROUPS
from tuner.schema.transforms import describe as transforms
from tuner.schema.walk import all_keys

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by scripts/make_docs.py from the code: change it there. -->"

# What a name alone does not say: its value means something else here. By the name that other tools use.
NOTES = {
    "per_device_train_batch_size": "ours is the global batch: theirs × devices × accumulation steps",
    "train_batch_size": "ours is the global batch, over all devices",
    "gradient_accumulation_steps": "not set: it follows from `trainer.batch_size` and `hardware.micro_batch_size`",
    "micro_batch_size": "changes memory and speed, not the result; `trainer.batch_size` is the global batch",
    "warmup": "a share of the steps, not a number of steps",
    "bf16": "`bf16: true` is `precision: bf16`, the default",
    "fp16": "`fp16: true` is `precision: fp16`",
    "push_to_hub": "with `hub.repo_id` unset, the result is published into a local folder",
    "public": "the opposite: `hub.private: false`",
    "report_to": "an option: `- tracking: wandb` in `defaults`",
    "finetuning_type": "an option: `- adapter: lora` (or `full`, `qlora`, `dora`, `rslora`) in `defaults`",
    "load_in_4bit": "an option: `- adapter: qlora` in `defaults`, 4-bit unless `adapter.quant` says otherwise",
    "quantization_bit": "an option: `- adapter: qlora` in `defaults`; 8 bits are `adapter.quant: int8`",
    "train_on_inputs": "`false` is `loss_on: assistant`, the default; `true` is `loss_on: all`",
    "train_on_prompt": "`false` is `loss_on: assistant`, the default; `true` is `loss_on: all`",
    "assistant_only_loss": "`true` is `loss_on: assistant`, the default",
    "completion_only_loss": "`true` is `loss_on: last_assistant`",
    "lora_target_linear": "`true` is `target_modules: all-linear`, the default",
    "lora_target": "`all` is `all-linear`, the default; `q_proj,v_proj` is `[q_proj, v_proj]`",
    "val_set_size": "a share below 1; for a number of rows, make an eval file",
    "val_size": "a share below 1; for a number of rows, make an eval file",
    "num_gpus": "of `hardware: ddp`, `fsdp` or `deepspeed`: [several devices](hardware.md)",
    "dataset": "`data.id` for a Hub dataset",
    "model_name_or_path": "or an option: `- model: smollm2-135m` in `defaults`",
    "gpu": "`cuda`, or `mps`; `auto` finds it",
}


def cli_page() -> str:
    """Every verb, from the same texts that `tune VERB --help` prints."""
    lines = [MADE, "", "# Command line", "", CLI, "", "| verb | what it does |", "|---|---|"]
    for verb, (arguments, summary) in VERBS.items():
        usage = f"tune {verb} {arguments}".strip()
        lines.append(f"| [`{cell(usage)}`](#tune-{verb}) | {cell(summary)} |")
    lines += ["", "| flag | what it does |", "|---|---|"]
    lines += [f"| `{flag}` | {cell(text)} |" for flag, text in FLAGS.items()]
    for verb in VERBS:
        lines += ["", f"## tune {verb}", "", *docstring(load(f"tuner.commands.{verb}_").__doc__ or "")]
    return tidy(lines)


CLI = """\
`tune recipe=R` runs a recipe, `tune VERB …` does the rest; `python -m tuner` is the same command. `tune VERB --help` prints what
stands here. RUN is the folder of a run, its name (the newest finished run of that name), or `name@key-prefix`. Off a terminal, tables
are tab-separated lines and progress is plain text. Exit codes: [errors.md](errors.md#exit-codes)."""


def docstring(text: str) -> Iterator[str]:
    """A verb's docstring as Markdown: paragraphs of commands become code."""
    for paragraph in text.strip().split("\n\n"):
        rows = [row.strip() for row in paragraph.splitlines()]
        if all(row.startswith("tune ") for row in rows):
            yield from ("```sh", *(re.sub(r" {3,}", "  # ", row) for row in rows), "```", "")
        else:
            yield " ".join(rows)
            yield ""


def reference_page() -> str:
    """Every key of a recipe, and the options of each section."""
    lines = [MADE, "", "# Recipe reference", "", REFERENCE, ""]
    lines += ["Sections: " + " · ".join(f"[{group}](#{group})" for group in GROUPS), "", "## The recipe itself", ""]
    lines += keys_table([describe(name) for name in all_keys() if "." not in name])
    about = sections()
    for group in GROUPS:
        lines += ["", f"## {group}", "", about[group], "", f"| `{group}:` option | what it is |", "|---|---|"]
        for option in list_options(group):
            default = " (default)" if option == DEFAULTS[group] else ""
            lines.append(f"| `{option}`{default} | {cell(describe_option(group, option))} |")
        keys = keys_below(group)
        lines += ["", *(keys_table(keys) if keys else ["No keys of its own: choose one of its options."])]
    return tidy(lines)


REFERENCE = """\
Each key with its type, default and range; `tune explain KEY` prints the same. "Changing it" says which stages of a finished run are
done again ([runs.md](runs.md#keys-what-a-change-does-again)); "nothing" is a key that changes no result. "Only" names the options that
have the key."""


def keys_table(keys: list[Key]) -> list[str]:
    """A table of keys."""
    lines = ["| key | type | default | what it is | changing it |", "|---|---|---|---|---|"]
    for key in keys:
        kind = cell(key.type.replace(" | ", " or ")) + (f", {key.range}" if key.range else "")
        only = f" Only: {', '.join(f'`{o}`' for o in key.options)}." if key.options else ""
        done = ", ".join(key.affects).replace("train, evaluate, publish", "train and all after it") or "nothing"
        lines.append(f"| `{key.name}` | {kind} | {default(key)} | {cell(key.doc)}{only} | {done} |")
    return lines


def default(key: Key) -> str:
    """The default value as it is written in YAML."""
    if key.required:
        return "must be set" + (f", where `{key.name.rpartition('.')[0]}` is" if key.name.count(".") > 1 else "")
    if key.default is None:
        return "not set"
    if isinstance(key.default, list | dict):
        return f"`[{', '.join(map(str, key.default))}]`" if isinstance(key.default, list) else "`{}`"
    return f"`{str(key.default).lower() if isinstance(key.default, bool) else key.default}`"


def coming_from_page() -> str:
    """Names of other tools, in the groups in which synonyms.py lists them."""
    lines = [MADE, "", "# Coming from another tool", "", COMING_FROM, ""]
    for title, names in synonym_groups().items():
        lines += [f"## {title}", "", "| there | here | mind |", "|---|---|---|"]
        lines += [f"| `{name}` | {ours(meant)} | {NOTES.get(name, '')} |" for name, meant in names.items()]
        lines.append("")
    return tidy(lines)


FAMILIES = {
    "text": "Texts",
    "patterns": "By regular expression",
    "rows": "Columns",
    "filters": "Which rows stay",
    "quality": "Quality",
    "pii": "Personal data and secrets",
    "chat": "Conversations",
    "sampling": "Choice and order",
    "augment_text": "Augmentation of texts",
    "augment_image": "Augmentation of images",
    "augment_audio": "Augmentation of recordings",
}


def transforms_page() -> str:
    """Every transform with its arguments, by family."""
    lines = [MADE, "", "# Transforms", "", TRANSFORMS, ""]
    found = [about for about in map(transforms.describe, transforms.names()) if about.family in FAMILIES]
    assert {about.family for about in found} == set(FAMILIES)
    for family, title in FAMILIES.items():
        lines += [f"## {title}", "", "| step | what it does | arguments | as an item |", "|---|---|---|---|"]
        for about in found:
            if about.family == family:
                mark = " *" if not about.held_out else ""
                arguments = "; ".join(map(argument, about.arguments))
                lines.append(f"| `{about.name}`{mark} | {cell(about.doc)} | {cell(arguments)} | `- {cell(about.example)}` |")
        lines.append("")
    return tidy(lines)


def argument(about: transforms.Argument) -> str:
    """An argument with its default."""
    if about.required:
        return f"`{about.name}` (must be set)"
    empty = about.default is None or about.default in ([], "")
    return f"`{about.name}`" if empty else f"`{about.name}: {json.dumps(about.default)}`"


LISTED = re.compile(r"(?<=<!-- ready recipes -->\n).*?(?=<!-- end of ready recipes -->)", re.DOTALL)


def recipes_page() -> str:
    """The guide's page on recipes, its list of the shipped ones made anew from their first comments."""
    rows = [
        f"| `{path.relative_to(SHIPPED_RECIPES).with_suffix('')}` | {cell(read(path).summary)} |"
        for path in sorted(SHIPPED_RECIPES.rglob("*.yaml"))
    ]
    made = "\n".join(["", "| recipe | what it does |", "|---|---|", *rows, "", ""])
    return LISTED.sub(lambda _: made, (DOCS / "recipes.md").read_text(encoding="utf-8"))


TRANSFORMS = """\
The steps of `data.transforms`: [data.md](data.md#cleaning-and-transforms) tells how they work, `tune explain
transforms.NAME` what each argument means. Held-out rows do not get the steps with a *."""


COMING_FROM = """\
Other tools' names are not accepted in silence, but an error names ours, and `tune explain cutoff_len` answers with `task.max_length`.
`tune import FILE --out my.yaml` writes the recipe, and says of each line what became of it. An axolotl configuration, for example:

```text
base_model: org/name
load_in_4bit: true
datasets: [{path: train.jsonl, type: chat_template}]
val_set_size: 0.1
sequence_len: 2048
sample_packing: true
adapter: qlora
lora_r: 32
lora_target_linear: true
micro_batch_size: 4
gradient_accumulation_steps: 8
num_epochs: 2
learning_rate: 1e-4
```

becomes:

```yaml recipe
defaults: [{adapter: qlora}]
model: {id: org/name}
data: {path: train.jsonl}
task: {max_length: 2048, packing: true}
adapter: {r: 32}
trainer: {batch_size: 32, num_train_epochs: 2, learning_rate: 1e-4}
```

Rows in ShareGPT, Alpaca, messages, prompt/completion and question/answer layout are recognised as they are ([data.md](data.md#shapes))."""


def ours(meant: str) -> str:
    """Our name as code; a section is an option to choose."""
    return f"[`{meant}`](reference.md#{meant.partition('.')[0]})" if meant.partition(".")[0] in GROUPS else f"`{meant}`"


def synonym_groups() -> dict[str, dict[str, str]]:
    """The comments of synonyms.py with the names below each."""
    found: dict[str, dict[str, str]] = {}
    title = ""
    for line in Path(str(synonyms.__file__)).read_text(encoding="utf-8").splitlines():
        if comment := re.match(r"    # (.+)", line):
            title = comment[1][0].upper() + comment[1][1:]
        elif entry := re.match(r'    "(.+)": "(.+)",', line):
            found.setdefault(title, {})[entry[1]] = entry[2]
    assert {k: v for names in found.values() for k, v in names.items()} == synonyms.SYNONYMS
    assert set(NOTES) <= set(synonyms.SYNONYMS)
    return found


def cell(text: str) -> str:
    """Text for a table's cell."""
    return text.replace("|", "\\|")


def tidy(lines: list[str]) -> str:
    """Lines as a page: no doubled empty lines, one newline at the end."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


PAGES = {
    "cli.md": cli_page,
    "reference.md": reference_page,
    "transforms.md": transforms_page,
    "coming-from.md": coming_from_page,
    "recipes.md": recipes_page,
}


def main(argv: list[str]) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a page is stale")
    check = parser.parse_args(argv).check
    assert kinds("adapter")
    stale = [name for name, page in PAGES.items() if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != page()]
    for name in stale:
        if not check:
            (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/{name} is stale: run `python scripts/make_docs.py`" if check else f"wrote docs/{name}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
