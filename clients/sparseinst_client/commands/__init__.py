"""The commands of `sparseinst-client`, one module for each of them.

A module has `add(commands)`, which registers its parser with its function as `run`; that returns the exit status. What
takes long to import, or an extra to install, is imported when the command runs.
"""
