"""Serves our files to Hydra: option `x` of the group `recipe` is a recipe file, whose `- model: y` reads as `- override /model: y`."""

from __future__ import annotations

from typing import Any, ClassVar

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from tuner.schema.documents import list_options, option_of
from tuner.schema.reading import Reading
from tuner.schema.recipe import GROUPS


class RecipeSource(ConfigSource):
    """A Hydra ConfigSource over a Reading (set before composing): what was wrong in the files is already taken out."""

    reading: ClassVar[Reading]

    @staticmethod
    def scheme() -> str:
        """Hydra finds this source by `tune://`."""
        return "tune"

    def load_config(self, config_path: str) -> ConfigResult:
        """A recipe (package `_global_`) or the value file of an option (package = its group)."""
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        data, package = (self._recipe(name), "_global_") if group == "recipe" else (self._option(group, name), None)
        return ConfigResult(provider=self.provider, path="tune://", config=OmegaConf.create(data), header={"package": package})

    def _recipe(self, name: str) -> dict[str, Any]:
        document = self.reading.recipes[name]
        layer = next(la for la in self.reading.layers if la.document is document)
        items = [i for i in document.data.get("defaults") or [] if isinstance(i, dict)]
        bases = [f"/recipe/{base}" for base in self.reading.bases.get(name, ())]
        choices = {k: option_of(str(v)) for i in items for k, v in i.items() if k in GROUPS and option_of(str(v)) in list_options(k)}
        return {"defaults": [*bases, "_self_", *({f"override /{k}": v} for k, v in choices.items())], **layer.data}

    def _option(self, group: str, name: str) -> dict[str, Any]:
        path = list_options(group)[name]
        layer = next((la for la in self.reading.layers if la.document and la.document.path == path), None)
        if layer is None or layer.document is None:
            raise ConfigLoadError(f"{group}={name} was not read")
        bases = layer.document.data.get("defaults") or []
        return {"defaults": [*bases, "_self_"], **layer.data.get(group, {})}

    def available(self) -> bool:
        """Always: the files were read before."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether the path is a section or `recipe`."""
        return config_path in (*GROUPS, "recipe")

    def is_config(self, config_path: str) -> bool:
        """Whether the path is a recipe of the Reading or an option with a value file."""
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        if group == "recipe":
            return name in self.reading.recipes
        return group in GROUPS and list_options(group).get(name) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names below a path, for Hydra's own messages."""
        return list(list_options(config_path)) if config_path in GROUPS else list(self.reading.recipes)


SourcesRegistry.instance().register(RecipeSource)
