"""The commands of `sparseinst`, one module for each group of them.

A module has `add(commands)`, which registers its parsers with their function as `run`; that returns the exit code. What
takes seconds to import is imported when a command runs: `--help` does not wait for torch.
"""
