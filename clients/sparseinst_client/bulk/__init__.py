"""Many pictures, many workers, many servers: Ray Data hands pictures out, Parquet files take what was found.

`storage` reads pictures and keeps results, on a disk or in a bucket; `fleet` spreads work over servers; `work` is what
a worker does, and how Ray runs it. `sparseinst-client bulk` puts them together.
"""
