"""Compress trained graph neural networks, lower them to fast inference engines, and prove the result.

The names here are the commands of `gnnexport`, and `load` for a finished bundle. They import nothing
before their first use, so that a serving machine never pays for torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnnexport.api import bench, compress, doctor, export, inspect, passes, targets, validate
    from gnnexport.runtime.runner import load

__all__ = ["bench", "compress", "doctor", "export", "inspect", "load", "passes", "targets", "validate"]


class _CommandPackage(ModuleType):
    """A subpackage that bears the name of a command, and is called like it."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        command = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("gnnexport.api"), command)(*args, **options)


for _name in ("passes", "targets", "validate"):
    importlib.import_module(f"gnnexport.{_name}").__class__ = _CommandPackage


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gnnexport' has no attribute '{name}'")
    home = "gnnexport.runtime.runner" if name == "load" else "gnnexport.api"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
