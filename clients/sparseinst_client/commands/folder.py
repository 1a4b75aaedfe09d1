"""`sparseinst-client folder`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from sparseinst_client.commands.arguments import (
    add_command,
    add_in_flight,
    add_selection,
    check_outputs,
    connect,
    path_with,
    say,
)
from sparseinst_client.commands.outcome import exit_status, report
from sparseinst_client.commands.progress import progress_of
from sparseinst_client.folder import pictures_of, run_settings, segment_folder, write_coco
from sparseinst_client.journal import Journal

EXAMPLES = """\
  sparseinst-client folder pictures/ --out found.jsonl
      a line for each picture; stopped half-way, the same command goes on where it was
  sparseinst-client folder pictures/ --out found.jsonl --coco found.json
      also as one COCO file, once all pictures are done
  sparseinst-client folder pictures/ --out found.jsonl --in-flight 32 --retries 20
      more at a time, for a larger server; outlasts its restart
"""
DESCRIPTION = """\
Segment every JPEG, PNG and WebP file under a folder, several at a time, and write a JSON line for each, in order.

The file can be gone on with: whatever ended a run, the same command does the pictures that the file lacks, and no
picture twice. Pictures that cannot be segmented are listed, have an "error" in their line, and end the command with
exit status 3. Where the server fails on a picture there is no line, and the next run tries again.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    folder = add_command(commands, "folder", "segment all pictures of a folder, resumable", DESCRIPTION, EXAMPLES)
    folder.add_argument("folder", type=Path, metavar="FOLDER", help="with pictures, also in folders inside it")
    folder.add_argument(
        "--out",
        type=partial(path_with, (".jsonl",)),
        default=Path("found.jsonl"),
        metavar="FILE.jsonl",
        help="JSON lines, and FILE.jsonl.run.json beside it (%(default)s)",
    )
    folder.add_argument("--coco", type=Path, metavar="FILE", help="also write all of it as COCO instances JSON")
    add_in_flight(folder)
    add_selection(folder)
    folder.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment what is left, and say what became of the pictures."""
    names = pictures_of(options.folder)
    check_outputs(options.out, options.coco)
    selection = {"score_threshold": options.score_threshold, "max_instances": options.max_instances}
    with connect(options) as client:
        settings = run_settings(client.contract(), options.model, **selection)
        with Journal(options.out, settings) as journal, progress_of("pictures") as shown:
            task = shown.add_task(options.folder.name or "pictures", total=len(names))
            outcome = segment_folder(
                client,
                options.folder,
                names,
                journal,
                in_flight=options.in_flight,
                progress=partial(shown.advance, task),
                **selection,
            )
    report(outcome, options.out)
    if options.coco:
        say(f"{write_coco(options.out, settings, options.coco)} instances in {options.coco}")
    return exit_status(outcome)
