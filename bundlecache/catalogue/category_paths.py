"""Category paths such as ``Electronics > Cameras > Lenses``."""

from __future__ import annotations

PATH_SEPARATOR = " > "


def path_prefixes(category: str) -> list[str]:
    """The prefixes of a category path: two items share as many of them as their paths have leading steps in common.

    >>> path_prefixes("Shoes > Boots")
    ['Shoes', 'Shoes > Boots']
    """
    steps = [step.strip() for step in category.split(">") if step.strip()]
    return [PATH_SEPARATOR.join(steps[: depth + 1]) for depth in range(len(steps))]
