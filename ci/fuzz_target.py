"""Fuzz one function of tests/fuzz/targets.py, guided by coverage, by atheris; started by ci/fuzz.sh for each.

    python ci/fuzz_target.py picture --runs 5000 --seed 1

What makes it fail is written to build/fuzz/TARGET. Copied to tests/fuzz/corpus/TARGET, the tests replay it for good.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
with atheris.instrument_imports(include=["sparseinst_runtime", "sparseinst_client", "PIL"]):
    import targets

SECONDS_A_RUN = 10  # one input that takes longer is reported as a hang
MEGABYTES = 2048  # and one that takes more memory, as a bomb
LONGEST = 8192  # bytes of an input


def main() -> None:
    """Run libFuzzer over a target; it ends the process, with status 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=tuple(targets.TARGETS))
    parser.add_argument("--list", action="store_true", help="only name the targets")
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.list or options.target is None:
        sys.stdout.write("\n".join(targets.TARGETS) + "\n")
        return

    folder = ROOT / "build" / "fuzz" / options.target
    start = folder / "start"
    start.mkdir(parents=True, exist_ok=True)
    for index, example in enumerate(targets.examples(ROOT)[options.target]):
        (start / f"example_{index}").write_bytes(example)
    found = ROOT / "tests" / "fuzz" / "corpus" / options.target
    arguments = [
        sys.argv[0],
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={LONGEST}",
        f"-timeout={SECONDS_A_RUN}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        str(start),
        *([str(found)] if found.is_dir() else []),
    ]
    atheris.Setup(arguments, targets.TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
