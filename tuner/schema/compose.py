"""From a command line to a Recipe: `compose("quickstart", ["trainer.learning_rate=1e-3"])`. Own pass first, then Hydra, then checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tuner.errors import Problem, TuneError
from tuner.registry import kinds, load_extensions
from tuner.schema.base import flat
from tuner.schema.layers import read_layers
from tuner.schema.reading import Layer, Reading, contains
from tuner.schema.recipe import DEFAULTS, GROUPS, Recipe
from tuner.schema.source import RecipeSource
from tuner.schema.suited import suited
from tuner.schema.values import check_range, resolver_problem, strings_in, type_name
from tuner.schema.walk import all_keys

_STORED: dict[tuple[str, str], type] = {}  # what Hydra knows of already, by group and name
# Fills keys that are missing, so that the other rules can still run and every problem is reported in one go.
PLACEHOLDERS = {"str": "(not set)", "int": 1}


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A recipe with where each of its values came from."""

    recipe: Recipe
    reading: Reading


Rule = Callable[[Recipe], Iterator[tuple[str, str, str]]]


def compose(name: str, overrides: list[str], *, rules: tuple[Rule, ...] = ()) -> Composed:
    """Compose the recipe `name` with overrides. `rules` yield (key, what, fix) over the composed recipe.

    Raises TuneError (code 2) with every problem of every file, override and rule.
    """
    load_extensions()
    reading = read_layers(name, overrides)
    config = _hydra(reading)
    problems = reading.problems
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # a reference to a key that does not exist, or to itself
        where = reading.where(str(error.full_key))
        raise TuneError(problems=[*problems, Problem(what=f"`{error.full_key}`: {_first_line(error)}", where=where)]) from error
    for key in missing:
        OmegaConf.update(config, key, PLACEHOLDERS[type_name(*all_keys(reading.variants)[key])])
        if key.split(".")[0] in reading.unsettled:
            continue
        fix = f"set it in the recipe or as `{key}=…`" + (f", or choose an option: `tune ls {key.split('.')[0]}`" if "." in key else "")
        problems.append(Problem(what=f"`{key}` is not set", where=reading.where(key), fix=fix))
    try:
        recipe = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise TuneError(problems=[*problems, Problem(what=_first_line(error), where=name)]) from error
    assert isinstance(recipe, Recipe)
    problems += _referred(recipe, reading)
    recipe.name = recipe.name or _folder_name(reading.recipes["main"].path.stem)
    _suit(recipe, reading)
    _look(recipe, reading)
    for rule in rules:
        found = [finding for finding in rule(recipe) if finding[0].partition(".")[0] not in reading.lacking]
        problems += [Problem(what=what, where=reading.where(key), fix=fix) for key, what, fix in found]
    if problems:
        raise TuneError(problems=problems)
    if recipe.data.eval_path and reading.rank("data.path") > reading.rank("data.eval_path"):
        reading.notes.append(f"held-out rows stay those of {reading.where('data.eval_path')}: {recipe.data.eval_path} (`data.eval_path=…`)")
    return Composed(recipe=recipe, reading=reading)


def _suit(recipe: Recipe, reading: Reading) -> None:
    """What suits the task and the adapter, of keys that nobody has set."""
    layer = Layer(origin=f"task={recipe.task.kind} with adapter={recipe.adapter.kind}", document=None, data={})
    for key, value in suited(recipe).items():
        group, _, name = key.partition(".")
        section = getattr(recipe, group)
        if getattr(section, name) != value and not any(contains(above.data, key) for above in reading.layers):
            setattr(section, name, value)
            layer.data.setdefault(group, {})[name] = value
    if layer.data:
        reading.layers.insert(0, layer)


def _look(recipe: Recipe, reading: Reading) -> None:
    """What `debug=…` sets of other keys, but for those that were typed; in a run of its own name."""
    changes = {key: value for key, value in recipe.debug.changes().items() if not contains(reading.layers[-1].data, key)}
    layer = Layer(origin=f"debug={recipe.debug.kind}", document=None, data={})
    for key, change in changes.items():
        group, _, name = key.partition(".")
        section = getattr(recipe, group)
        if hasattr(section, name):
            before = getattr(section, name)
            value = change(before) if callable(change) else change
            setattr(section, name, type(before)[value] if isinstance(before, Enum) else value)
            layer.data.setdefault(group, {})[name] = value
    if changes:
        reading.layers.insert(-1, layer)
        recipe.name = f"{str(recipe.name).removesuffix(f'-{recipe.debug.kind}')}-{recipe.debug.kind}"  # its `recipe.yaml` has it already


def _folder_name(stem: str) -> str:
    """A file's name as a run's name: `mein rezept` -> `mein-rezept`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-") or "recipe"


def _referred(recipe: Recipe, reading: Reading) -> Iterator[Problem]:
    """Faults of values that references brought in or put together; what stands in a layer itself was checked there."""
    keys = all_keys(reading.variants)
    for key, value in flat(recipe).items():
        problem = check_range(keys[key][1], value, key) if key in keys else None
        if any("${" in (resolver := text) for text in strings_in(value)):
            problem = resolver_problem(resolver, key)
        if problem is not None:
            yield replace(problem, where=reading.where(key))


def _hydra(reading: Reading) -> DictConfig:
    """Let Hydra compose what the own pass left; a fault that it alone finds is reported as ours are."""
    _register_schema()
    RecipeSource.reading = reading
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path("tune://"))
    repository = CachingConfigRepository(loader.repository)
    try:
        # What its `load_configuration` does, without Hydra's own section (of its job, logs and sweeps), which takes twice as long.
        chosen = OverridesParser.create().parse_overrides(reading.overrides)
        found = create_defaults_list(repository, "tune", chosen, prepend_hydra=False, skip_missing=False)
        config = loader._compose_config_from_defaults_list(found.defaults, repository)
        # Values of the command line are merged as files are: Hydra's own overrides cannot reach into a section that is null (model.wheel).
        with open_dict(config):
            config.merge_with(reading.layers[-1].data)
    except (HydraException, OmegaConfBaseException) as error:
        raise TuneError(problems=[*reading.problems, Problem(what=_first_line(error))]) from error
    return config


def _register_schema() -> None:
    """Puts the dataclasses into Hydra's ConfigStore: the recipe, each variant, and the defaults list that ties them together."""
    store = ConfigStore.instance()
    if not _STORED:
        store.store(name="schema", node=Recipe)
    for group in GROUPS:
        for name, cls in kinds(group).items():
            if _STORED.get((group, name)) is not cls:
                store.store(group=group, name=name, node=cls)
                _STORED[group, name] = cls
    defaults = ["schema", *({group: option} for group, option in DEFAULTS.items()), {"recipe": "main"}, "_self_"]
    store.store(name="tune", node={"defaults": defaults})


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
