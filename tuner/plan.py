"""The frozen Plan: stages with content keys, and all that a worker needs. `make_plan(composed)` needs no torch, no network.

What makes a stage's key is told in keys.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tuner
from tuner.errors import TuneError
from tuner.extensions import files_used
from tuner.files import hashes
from tuner.inputs import find_inputs, is_hub, is_local
from tuner.keys import content_key
from tuner.runs import is_done, read_json, write_json
from tuner.schema.base import STAGES, flat, plain
from tuner.schema.compose import Composed
from tuner.schema.data import sources
from tuner.schema.documents import RUN
from tuner.schema.model import Source
from tuner.schema.recipe import Recipe, from_plain
from tuner.schema.teacher import teacher_of

FORMAT = 1
SHARED = ("prepare", "baseline")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the pipeline. `folder` holds its marker: the run's, or one shared by all runs that need the same result."""

    name: str
    key: str
    needs: tuple[str, ...]
    folder: str

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return is_done(Path(self.folder), self.name, self.key)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, frozen. Plain JSON: what dry_run prints, what resumes hash, what launchers hand to workers."""

    format: int
    tuner: str
    name: str
    recipe_name: str
    folder: str
    recipe: dict[str, Any]
    choices: dict[str, str]
    origins: dict[str, str]
    files: dict[str, list[str]]
    content: dict[str, list[str]]
    stages: tuple[Stage, ...]
    extensions: dict[str, str] = field(default_factory=dict)
    """Files of a person's own that the recipe uses something of: path -> sha256."""

    def stage(self, name: str) -> Stage:
        """The stage called `name`; StopIteration is our bug: ask `has` first."""
        return next(s for s in self.stages if s.name == name)

    def has(self, name: str) -> bool:
        """Whether the recipe asks for this stage."""
        return any(s.name == name for s in self.stages)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(s.done for s in self.stages)

    def load_recipe(self) -> Recipe:
        """The recipe as typed dataclasses. Raises TuneError (code 2) when another version of tune wrote it, with other keys."""
        try:
            recipe = from_plain(self.recipe)
            recipe.model.chat_template = next(iter(self.files.get("model.chat_template", ())), recipe.model.chat_template)
            results = ((recipe.model, "model.run"), (recipe.adapter, "adapter.continue_from"), (recipe.task, "task.teacher"))
            for section, key in results:
                if key in self.files:
                    setattr(section, key.partition(".")[2], str(Path(self.files[key][0]).parent))
            return recipe
        except (KeyError, TypeError) as error:
            what = f"this is tune {tuner.__version__}, the plan was written by {self.tuner}: {type(error).__name__} {error}"
            raise TuneError("the plan does not fit this version", self.folder, f"{what}; run its recipe again") from error

    def write(self, path: Path) -> None:
        """Freeze the plan into a file."""
        write_json(path, dataclasses.asdict(self))


def read_plan(path: Path) -> Plan:
    """Read plan.json. Raises TuneError (code 4) when damaged, (code 2) when a newer version wrote it."""
    values = read_json(path)
    if values.get("format", 0) > FORMAT:
        writer, reader = values.get("tuner"), tuner.__version__
        fix = f"upgrade: this is tuner {reader}, the plan was written by {writer}"
        if writer == reader:  # two states of the code under one number
            fix = f"a later build of tuner {writer} wrote it: update this one, or run its recipe again"
        raise TuneError(f"the plan has format {values['format']}, newer than {FORMAT}", str(path), fix)
    stages = tuple(Stage(**(s | {"needs": tuple(s["needs"])})) for s in values.pop("stages"))
    plan = Plan(**values, stages=stages)
    return _moved(plan, path.parent) if path.name == "plan.json" and path.with_name("stages").is_dir() else plan


def _moved(plan: Plan, folder: Path) -> Plan:
    """The plan of a run folder that may have been moved or copied since: its stages are looked up where it lies now."""
    folder = folder.absolute()
    if str(folder) == plan.folder:
        return plan
    beside = folder.parent.parent / ".cache"
    places = {s.name: beside / f"{s.name}-{s.key}" if s.name in SHARED else folder for s in plan.stages}
    return dataclasses.replace(
        plan, folder=str(folder), stages=tuple(dataclasses.replace(s, folder=str(places[s.name])) for s in plan.stages)
    )


def make_plan(composed: Composed) -> Plan:
    """Freeze a composed recipe. Raises TuneError (code 2) when a local file it names is missing."""
    recipe, reading = composed.recipe, composed.reading
    files = find_inputs(composed)
    content = {key: hashes(found) for key, found in files.items()}
    output = Path(recipe.output_dir).expanduser().absolute()
    stages = _stages(recipe, content, fixed={}, output=output)
    return Plan(
        format=FORMAT,
        tuner=tuner.__version__,
        name=str(recipe.name),
        recipe_name=reading.recipes["main"].path.stem,
        folder=next(s.folder for s in stages if s.name == "train"),
        recipe=plain(recipe),
        choices={group: _without_folder(option) for group, option in reading.choices.items()},
        origins={k: reading.origin(k) for k in flat(recipe)},
        files=files,
        content=content,
        stages=stages,
        extensions=files_used(recipe),
    )


def _without_folder(option: str) -> str:
    """An option as it is shown, which may be published: `run:/home/me/outputs/one/3f2a` is `run:3f2a`."""
    return f"{RUN}{Path(option).name}" if option.startswith(RUN) and "/" in option else option


def amended(plan: Plan, recipe: Recipe, *, folder: Path, anew: tuple[str, ...]) -> Plan:
    """The run in `folder`, measured or published as `recipe` says: stages but those `anew` keep their keys.

    So data and model need not be here any more, and a push needs nothing that shapes rows.
    """
    fixed = {s.name: s.key for s in plan.stages if s.name not in anew}
    stages = _stages(recipe, plan.content, fixed=fixed, output=folder.parent.parent)
    before, after = flat(plan.load_recipe()), flat(recipe)
    origins = {k: "command line" if after[k] != before[k] else origin for k, origin in plan.origins.items()}
    return dataclasses.replace(plan, folder=str(folder), recipe=plain(recipe), origins=origins, stages=stages)


def _stages(recipe: Recipe, content: dict[str, list[str]], *, fixed: dict[str, str], output: Path) -> tuple[Stage, ...]:
    """The stages that a recipe asks for, with their keys (those in `fixed` as they are) and folders under `output`."""
    left_out = set() if recipe.eval.enabled else {"baseline", "evaluate"}
    left_out |= set() if recipe.hub.enabled else {"publish"}
    needs = {name: tuple(n for n in inputs if n not in left_out) for name, inputs in STAGES.items() if name not in left_out}
    keys: dict[str, str] = {}
    for name, inputs in needs.items():
        keys[name] = fixed.get(name) or content_key(recipe, name, [keys[i] for i in inputs], content)
    run = output / str(recipe.name) / keys["train"]
    places = {n: output / ".cache" / f"{n}-{keys[n]}" if n in SHARED else run for n in needs}
    return tuple(Stage(name=n, key=keys[n], needs=i, folder=str(places[n])) for n, i in needs.items())


def needs_hub(recipe: Recipe) -> bool:
    """Whether the model or the rows come from the Hub, where they are not cached."""
    teacher = teacher_of(recipe)
    teaches = teacher is not None and teacher.run is None and is_hub(teacher)
    return any(source.id for source in sources(recipe.data).values()) or model_is_on_hub(recipe) or teaches


def model_is_on_hub(recipe: Recipe) -> bool:
    """Whether the model is a repository on the Hub."""
    return recipe.model.source is not Source.wheel and not is_local(recipe)  # also of the run that it starts from
