"""`python -m sparseinst`, and `torchrun -m sparseinst`: the command line as a module."""

from __future__ import annotations

from sparseinst.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
