"""Build gnnexport by scikit-build-core: with the kernels, or without them where they cannot be built.

What pip calls, as PEP 517 and PEP 660 have it. Metadata hooks are left out on purpose: whether a wheel is for one
platform or for all is known only once the kernels were built or not.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from scikit_build_core import build
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

Settings = dict[str, str | list[str]]


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    """Ask for CMake and Ninja where the system has none, but not where there is nothing to compile with."""
    return build.get_requires_for_build_wheel(config_settings) if _has_compiler() else []


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(
    wheel_directory: str, config_settings: Settings | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel for this platform with the kernels, or for all platforms without them.

    Who asks for the kernels, by the setting `wheel.cmake=true`, gets them or an error.
    """
    if str((config_settings or {}).get("wheel.cmake", "")).lower() in ("true", "1", "on"):
        return build.build_wheel(wheel_directory, config_settings, metadata_directory)
    try:
        return build.build_wheel(wheel_directory, config_settings, metadata_directory)
    except (Exception, SystemExit) as failure:
        # Whatever stopped the kernels, the rest serves without them; what is wrong with the rest fails again.
        print(f"gnnexport: the kernels cannot be built here ({failure}); installing without them", file=sys.stderr)
        without = {**(config_settings or {}), "wheel.cmake": "false"}
        return build.build_wheel(wheel_directory, without, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel of the kernels and the path to this folder.

    scikit-build-core's own editable wheels import this folder whatever comes first on `sys.path`, and know only the
    modules there were at the time.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gnnexport.pth")
        path.write_text(f"{Path.cwd()}\n", encoding="utf-8")
        settings = {**(config_settings or {}), "wheel.packages": [], f"wheel.force-include.{path}": path.name}
        return build_wheel(wheel_directory, settings, metadata_directory)


def _has_compiler() -> bool:
    named = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or ""
    return any(shutil.which(name) for name in (*named.split()[:1], "c++", "g++", "clang++", "cl"))
