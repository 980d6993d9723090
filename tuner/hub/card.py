"""The model card, README.md of a run: `write_card(Path("outputs/quickstart/0123456789ab"))`.

The metadata goes through huggingface_hub's own classes, so that what we write is what the Hub reads. Nothing of this machine enters it:
files by name, never by path.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tuner.data.audit import taught
from tuner.measures import duration, figure
from tuner.results import Results, json_lines, read_results
from tuner.runs import write_text
from tuner.schema.adapter import Full, QLora
from tuner.schema.data import source_key, sources
from tuner.schema.model import Source
from tuner.schema.teacher import KEY, teacher_of

FEW_FILES = 8  # that are named
FEW_ROWS = 300  # below this, a card says that its figures come from few rows


def write_card(folder: Path) -> Path:
    """Write the folder's README.md from its plan and whatever its stages have left there. Raises TuneError (code 4)."""
    run = read_results(folder)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # A card is Markdown: it is not escaped as HTML, and holds no text that a model or a data row wrote.
    page = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    page.filters |= {"figure": figure, "duration": duration, "number": "{:,}".format}
    training = sources(run.recipe.data)
    body = page.get_template("card.md.jinja").render(
        run=run,
        title=run.recipe.hub.repo_id.partition("/")[2] if run.recipe.hub.repo_id else run.plan.name,
        repo=run.recipe.hub.repo_id or "PATH/TO/THIS/FOLDER",
        base=base_model(run),
        full=isinstance(run.recipe.adapter, Full),
        quantised=run.recipe.adapter.quant.value if isinstance(run.recipe.adapter, QLora) else "",
        wheel=run.recipe.model.wheel if run.recipe.model.source is Source.wheel else None,
        files=sorted({Path(f).name for name in training for f in run.plan.files.get(source_key(name, "path"), [])}),
        datasets=[source for source in training.values() if source.id],
        recipe=yaml.safe_dump(recipe_block(run), sort_keys=False, allow_unicode=True, width=100).strip(),
        final_loss=final_loss(folder),
        system=json.dumps(run.data.get("system"), ensure_ascii=False) if run.data.get("system") else "",
        teacher=teacher_name(run),
        few=FEW_ROWS,
        few_files=FEW_FILES,
        labels=taught(run.audit) if "labels" in run.audit else "",
        generated=run.recipe.eval.generate
        and (run.recipe.task.head == "seq2seq" or (run.recipe.task.chats and run.recipe.task.head in ("causal", "image_text"))),
    )
    tidy = re.sub(r"\n{3,}", "\n\n", body).strip()
    card = ModelCard(f"---\n{metadata(run).to_yaml()}\n---\n\n{tidy}\n")
    path = folder / "README.md"
    write_text(path, str(card))
    return path


def base_model(run: Results) -> str | None:
    """The base model's Hub id; None when it is a folder of this machine, which means nothing elsewhere."""
    return None if run.base_is_local else run.recipe.model.id


def teacher_name(run: Results) -> str:
    """What a teacher is called: its Hub id, or the last part of a folder of this machine; empty without one."""
    teacher = teacher_of(run.recipe)
    if teacher is None:
        return ""
    return Path(teacher.run or teacher.id).name if KEY in run.plan.files else teacher.id


def metadata(run: Results) -> ModelCardData:
    """The card's YAML header."""
    recipe, full = run.recipe, isinstance(run.recipe.adapter, Full)
    base = base_model(run)
    datasets = list(dict.fromkeys(source.id for source in sources(recipe.data).values() if source.id))
    values = {
        "base_model": base,
        "base_model_relation": ("finetune" if full else "adapter") if base else None,
        "library_name": recipe.task.library or ("transformers" if full else "peft"),
        "license": recipe.hub.license or recipe.model.license,
        "datasets": datasets or None,
        "pipeline_tag": recipe.task.pipeline_tag,
        "tags": ["tuner", recipe.task.kind, *([] if full else [recipe.adapter.kind])],
        "model_name": run.plan.name,
        "eval_results": results(run) or None,
    }
    return ModelCardData(**{k: v for k, v in values.items() if v is not None})  # type: ignore[arg-type]


def results(run: Results) -> list[EvalResult]:
    """What the tuned model measured, as the Hub's model-index wants it. A local data set has a name and no id."""
    data = run.recipe.data
    held_out = data.eval_path or data.path or "-".join(data.mix)
    name = data.id or (Path(held_out).stem if held_out else "held-out rows")
    return [
        EvalResult(
            task_type=run.recipe.task.pipeline_tag,
            dataset_type=data.id or "private",
            dataset_name=f"{name} (held out)",
            dataset_split=data.eval_split,
            dataset_revision=data.revision,
            metric_type="accuracy" if metric.is_field else metric.key.partition("/")[0],
            metric_name=f"{metric.name} accuracy" if metric.is_field else metric.name,
            metric_value=round(metric.tuned, 4),
        )
        for metric in run.metrics
        if metric.tuned is not None
    ]


def recipe_block(run: Results) -> dict[str, object]:
    """The recipe as a person would write it: the options chosen, and what is neither theirs nor a default."""
    options = [{k: v} for k, v in run.plan.choices.items() if v not in ("custom", "default", "auto", "none", "local")]
    block: dict[str, object] = {"defaults": options}
    for setting in run.changed():
        section, _, name = setting.key.partition(".")
        if setting.from_option or setting.key in ("output_dir", "name"):
            continue
        target = block.setdefault(section, {}) if name else block
        assert isinstance(target, dict)
        target[name or section] = setting.value
    return block


def final_loss(folder: Path) -> float | None:
    """Training loss of the last logged step."""
    path = folder / "train_log.jsonl"
    losses = [line["loss"] for line in json_lines(path) if line.get("loss") is not None] if path.is_file() else []
    return losses[-1] if losses else None
