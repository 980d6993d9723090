"""COCO's annotation files as rows: `by_image({"images": […], "annotations": […], "categories": […]})` -> a row for each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

PARTS = ("images", "annotations", "categories")


def is_coco(value: Any) -> bool:
    """Whether a JSON file is one of COCO's, of instances."""
    return isinstance(value, dict) and all(isinstance(value.get(name), list) and _mappings(value[name]) for name in PARTS)


def _mappings(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def by_image(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`{"image": file_name, "objects": [{"bbox", "category", "iscrowd"}, …]}` of each image, in the file's order.

    A category that `categories` does not have keeps its number, which the labels then do not have.
    """
    names = {one.get("id"): one.get("name") for one in value["categories"]}
    objects = defaultdict[Any, list[dict[str, Any]]](list)
    for one in value["annotations"]:
        category = names.get(one.get("category_id"), one.get("category_id"))
        objects[one.get("image_id")].append({"bbox": one.get("bbox"), "category": category, "iscrowd": one.get("iscrowd", 0)})
    for image in value["images"]:
        yield {"image": image.get("file_name"), "image_id": image.get("id"), "objects": objects.get(image.get("id"), [])}
