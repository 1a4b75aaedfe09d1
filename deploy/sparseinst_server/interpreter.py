"""What a Python interpreter says of itself, as JSON on standard output; run as a script by the one that is asked about.

Standard library only, and nothing newer than Python 3.8: the interpreter may be one we have to turn down.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "nvidia-pytriton",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "psutil",
    "pycocotools",
    "sparseinst",
    "tritonclient",
)


def describe() -> dict[str, Any]:
    """Version, platform, installed packages, the folder of pytriton and where a libpython may lie."""
    pytriton = importlib.util.find_spec("pytriton")  # finds it without importing it
    folders = pytriton.submodule_search_locations if pytriton else None
    return {
        "executable": sys.executable,
        "version": list(sys.version_info[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "pytriton": next(iter(folders), None) if folders else None,
        "library_folders": [sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib"],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
