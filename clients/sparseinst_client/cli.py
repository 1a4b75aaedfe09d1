"""`sparseinst-client`: pictures, folders and videos through a server, and what a server is and does.

The commands themselves are in `commands/`; each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sparseinst_client.commands import bench, bulk, evaluate, folder, health, image, models, video
from sparseinst_client.commands.arguments import SERVER, complain
from sparseinst_client.errors import SparseInstError

DESCRIPTION = "Find the instances in pictures with a SparseInst server."
EPILOG = f"""\
examples:
  sparseinst-client image zoo.jpg --out overlay.png        what is in a picture, as a table and painted
  sparseinst-client folder pictures/ --out found.jsonl     all pictures of a folder; go on where it was stopped
  sparseinst-client bulk s3://zoo/pictures --out s3://zoo/found --url grpc://gpu-1:8001,grpc://gpu-2:8001
                                                           a bucket, by many workers and servers (extra 'bulk')
  sparseinst-client video zoo.mp4 --out painted.mp4        every frame of a video, or of a camera
  sparseinst-client evaluate --annotations val.json --images val/
                                                           COCO mask AP of what the server answers
  sparseinst-client health --url http://gpu-box:8000       does it answer? sends a real picture through it
  sparseinst-client models                                 what it serves, and whether that is ready
  sparseinst-client bench --help                           how fast it is, under load

COMMAND --help has more.

{SERVER}
exit status:
  0  done
  1  failed; one sentence on stderr says why
  2  wrong usage
  3  folder, bulk: done, but some pictures could not be segmented; they are listed
  130  interrupted by Ctrl-C; what was written until then is whole
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line, with its help."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("sparseinst-client", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (image, folder, bulk, video, evaluate, health, models, bench):
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    _open_closed_streams()
    options = build_parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()  # what cannot be written shows now, and not when the interpreter has ended
        return status
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed; install the extra: pip install 'sparseinst[client,bench,bulk]'"
        complain(error.msg if "pip install" in error.msg else missing)
    except (SparseInstError, ValueError) as error:  # wrong pictures and annotations are ValueErrors
        complain(str(error))
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    return 1


def _open_closed_streams() -> None:
    """A shell's `>&-` leaves a program without the stream."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as we run


def _drop_output() -> None:
    """Whoever read our output, such as `head`, has seen enough: end without a word, also when Python flushes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
