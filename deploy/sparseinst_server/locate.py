"""Find the real `tritonserver` inside the wheel nvidia-pytriton, and say in words what keeps it from running.

Only files of that wheel are used, never its Python API. Nothing in the environment is changed: what Triton wants in one
folder is put together by `server.py` in a folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST, NEWEST = (3, 10), (3, 12)  # the wheel has a stub for 3.13 too, but its numpy 1 has no wheels there
TRITON = "nvidia-pytriton"  # the wheel that carries Triton; only its files are used


class InstallationError(RuntimeError):
    """The local Triton cannot run here; the message lists everything that is missing and how to get it."""


@dataclass(frozen=True)
class Installation:
    """A Triton that can be started.

    Attributes:
        python: the interpreter whose environment the Python backend runs in.
        version: its version, (3, 11).
        tritonserver: the server's binary.
        backend: folder of the Python backend, which lacks the stub.
        stub: the process that runs `model.py`, for this version of Python.
        caches: folder of the response caches.
        libpython: shared library to add to the loader's path, or None where the loader finds it by itself.
        packages: versions of the packages that matter.
    """

    python: Path
    version: tuple[int, int]
    tritonserver: Path
    backend: Path
    stub: Path
    caches: Path
    libpython: Path | None
    packages: dict[str, str | None]


def locate(python: str | os.PathLike[str] = sys.executable) -> Installation:
    """The Triton installed beside an interpreter, checked so far as that goes without starting it.

    Args:
        python: an interpreter; by default the one that runs this.

    Raises:
        InstallationError: another platform or version of Python, or packages or libraries that are missing.
    """
    facts = _ask(Path(python))
    executable, (major, minor) = Path(facts["executable"]), facts["version"]
    if (facts["system"], facts["machine"]) != ("Linux", "x86_64"):
        raise InstallationError(
            f"the local Triton is a program for Linux on x86_64, this is {facts['system']} on {facts['machine']}; "
            "run it in a container or on another machine"
        )
    if not OLDEST <= (major, minor) <= NEWEST:
        raise InstallationError(
            f"{executable} is Python {major}.{minor}; the local Triton runs with Python 3.10 to 3.12; "
            "make the environment with one of these (set-up takes it from PYTHON=/path/to/python3.12)"
        )
    problems = _package_problems(executable, facts["packages"])
    if facts["pytriton"] is None:
        problems.append(
            f"Triton itself is missing; get it: {executable} -m pip install --no-deps nvidia-pytriton==0.7.0"
        )
        raise InstallationError("\n".join(problems))

    root = Path(facts["pytriton"], "tritonserver")
    stub = root / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    tritonserver = root / "bin" / "tritonserver"
    libpython = _libpython(stub, (major, minor), [Path(folder) for folder in facts["library_folders"] if folder])
    problems += _binary_problems([tritonserver, stub], libpython, (major, minor))
    problems += _name_problems(executable)
    if problems:
        raise InstallationError("\n".join(problems))
    return Installation(
        python=executable,
        version=(major, minor),
        tritonserver=tritonserver,
        backend=root / "backends" / "python",
        stub=stub,
        caches=root / "caches",
        libpython=libpython,
        packages=facts["packages"],
    )


def _ask(python: Path) -> dict[str, Any]:
    """Let an interpreter describe itself; raises InstallationError when it cannot be run."""
    script = Path(__file__).with_name("interpreter.py")
    try:
        answer = subprocess.run([python, script], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallationError(
            f"{python} cannot be asked about its environment ({error}); "
            "wanted a Python interpreter: `make setup` builds one in .venv-serve"
        ) from error
    facts: dict[str, Any] = json.loads(answer.stdout)
    return facts


def _package_problems(python: Path, versions: dict[str, str | None]) -> list[str]:
    missing = [name for name, version in versions.items() if version is None and name != TRITON]
    problems = []
    if missing:
        get = f"{python} -m pip install '.[serve,client]' in the project's folder"
        problems.append(f"the environment of {python} lacks {', '.join(missing)}; get it: {get}")
    numpy = versions["numpy"]
    if numpy is not None and int(numpy.split(".")[0]) >= 2:
        problems.append(
            f"the environment of {python} has numpy {numpy}, with which this Triton returns empty tensors; "
            f"get an older one: {python} -m pip install 'numpy<2'"
        )
    return problems


def _libpython(stub: Path, version: tuple[int, int], folders: list[Path]) -> Path | None:
    """The shared library of Python, if the stub needs it, the loader misses it and one of the folders has it."""
    name = libpython_name(version)
    if not any(name in line for line in missing_libraries(stub)):
        return None
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def libpython_name(version: tuple[int, int]) -> str:
    """`libpython3.11.so.1.0`."""
    return f"libpython{version[0]}.{version[1]}.so.1.0"


def missing_libraries(binary: Path, search: Path | None = None) -> list[str]:
    """What the dynamic loader would not find for a binary, in its own words, one library a line.

    Args:
        binary: an executable; it is not run, the loader only lists what it would load (as ldd does).
        search: a folder to search first.
    """
    environment = os.environ | {"LD_TRACE_LOADED_OBJECTS": "1"}
    if search is not None:
        environment["LD_LIBRARY_PATH"] = f"{search}:{environment.get('LD_LIBRARY_PATH', '')}"
    listing = subprocess.run([binary], env=environment, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    return [line.strip() for line in (listing.stdout + listing.stderr).splitlines() if "not found" in line]


def _binary_problems(binaries: list[Path], libpython: Path | None, version: tuple[int, int]) -> list[str]:
    problems = []
    for binary in binaries:
        if not binary.is_file():
            problems.append(
                f"{binary} is missing; install the wheel again: pip install --no-deps nvidia-pytriton==0.7.0"
            )
        elif not os.access(binary, os.X_OK):
            problems.append(f"{binary} may not be executed; allow it: chmod +x {binary}")
        else:
            lines = missing_libraries(binary, libpython.parent if libpython else None)
            problems += [_library_problem(line, binary, version) for line in lines]
    return problems


def _library_problem(line: str, binary: Path, version: tuple[int, int]) -> str:
    if libpython_name(version) not in line:
        return f"{binary.name} does not find a library of the system: {line}"
    package = "libpython{}.{}".format(*version)
    return (
        f"Triton's Python backend needs {libpython_name(version)}, the shared library of this Python; "
        f"Debian, Ubuntu: apt-get install {package}; "
        f"pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version[0]}.{version[1]}"
    )


def _name_problems(python: Path) -> list[str]:
    """The stub takes its environment from the first `python3` on PATH: that has to be the interpreter."""
    name = python.with_name("python3")
    if name.exists() and name.samefile(python):
        return []
    return [
        f"{name} is not {python}, and Triton goes by that name; use a virtual environment: {python} -m venv .venv-serve"
    ]
