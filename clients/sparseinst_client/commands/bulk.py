"""`sparseinst-client bulk`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparseinst_client.commands.arguments import (
    add_command,
    add_in_flight,
    add_selection,
    complain,
    connect,
    count,
)
from sparseinst_client.commands.outcome import exit_status, report
from sparseinst_client.commands.progress import progress_of
from sparseinst_client.errors import ServerUnavailable
from sparseinst_client.folder import Outcome, run_settings

if TYPE_CHECKING:
    from sparseinst_client.bulk.fleet import Fleet
    from sparseinst_client.bulk.storage import Results
    from sparseinst_client.bulk.work import Worker

EXAMPLES = """\
  sparseinst-client bulk pictures/ --out found/ --url grpc://gpu-1:8001,grpc://gpu-2:8001
      a folder, by two servers, with Ray on this machine; stopped half-way, the same command goes on where it was
  sparseinst-client bulk s3://zoo/pictures --out s3://zoo/found --workers 32 --ray auto --url ...
      a bucket, by 32 workers of the Ray cluster that this machine belongs to
"""
DESCRIPTION = """\
Segment every JPEG, PNG and WebP file under a folder or in a bucket, by many workers and many servers, into Parquet
files: a row for each picture, with its instances. Wants the extra 'bulk', which brings Ray Data.

Results can be gone on with: whatever ended a run, the same command does the pictures that no file has yet, and no
picture twice. Pictures that cannot be segmented have the reason in the column "error", are listed, and end the command
with exit status 3. Where storage or all servers fail on a picture there is no row, and the next run tries again.
One command at a time writes to a folder. Workers on other machines need this package, too, and see the same storage.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    bulk = add_command(commands, "bulk", "a bucket by many workers and servers", DESCRIPTION, EXAMPLES)
    bulk.add_argument("pictures", metavar="PICTURES", help="a folder, or s3://, gs:// or abfs:// as Arrow spells them")
    bulk.add_argument("--out", required=True, metavar="FOLDER", help="for the Parquet files; a folder or a bucket")
    bulk.add_argument("--workers", type=count, default=2, metavar="N", help="processes that ask (%(default)s)")
    bulk.add_argument(
        "--share",
        type=count,
        default=256,
        metavar="N",
        help="pictures in a file, about; so many are lost, and done again, when a worker is killed (%(default)s)",
    )
    bulk.add_argument(
        "--ray",
        default=os.environ.get("RAY_ADDRESS") or "local",
        metavar="ADDRESS",
        help="the Ray cluster: auto, or HOST:PORT; RAY_ADDRESS sets it too (now: %(default)s, on this machine)",
    )
    add_in_flight(bulk)
    add_selection(bulk)
    bulk.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment what is left, and say what became of the pictures."""
    from sparseinst_client.bulk.storage import Folder, Results
    from sparseinst_client.bulk.work import Worker

    source, out = Folder.at(options.pictures), Folder.at(options.out)
    names = source.pictures()
    with _fleet(options) as fleet:
        contract, absent = fleet.contract()
        for reason in absent:
            complain(f"goes on without a server: {reason}")
        selection = {"score_threshold": options.score_threshold, "max_instances": options.max_instances}
        settings = run_settings(contract, options.model, **selection)
        results = Results.at(out, settings, pictures=len(names), share=options.share)
        done = results.done()
        left = [name for name in names if name not in done]
        outcome = Outcome(skipped=len(names) - len(left))
        outcome.refused = [(name, reason) for name, reason in done.items() if reason is not None]
        if left:
            _segment(left, Worker(source, results, fleet, options.in_flight), outcome, options)
            _verify(left, results, outcome)
    report(outcome, options.out)
    return exit_status(outcome)


def _fleet(options: argparse.Namespace) -> Fleet:
    from sparseinst_client.bulk.fleet import Fleet

    urls = [url for url in options.url.split(",") if url]
    return Fleet([connect(argparse.Namespace(**vars(options) | {"url": url})) for url in urls])


def _segment(left: Sequence[str], worker: Worker, outcome: Outcome, options: argparse.Namespace) -> None:
    from sparseinst_client.bulk.work import outcomes, ray_at

    with progress_of("pictures") as shown, ray_at(options.ray):
        total = outcome.skipped + len(left)
        task = shown.add_task("pictures", total=total, completed=outcome.skipped)
        for share in outcomes(worker, left, options.workers):
            outcome.done += share.done
            outcome.refused += share.refused
            outcome.failed += share.failed
            shown.advance(task, share.done + len(share.refused) + len(share.failed))
            if share.failed and not (share.done or share.refused):
                name, reason = share.failed[0]
                raise ServerUnavailable(f"gave up after {len(share.failed)} pictures in a row: {name}: {reason}")


def _verify(left: Sequence[str], results: Results, outcome: Outcome) -> None:
    """Look whether every row is there: another command that wrote to the same folder may have taken some away."""
    done = results.done().keys() | {name for name, _ in outcome.failed}
    lost = [name for name in left if name not in done]
    outcome.done -= len(lost)
    outcome.failed += [(name, "its row is gone; does another command write here?") for name in lost]
