"""Measure a running server under load: throughput, latency, and the highest rate that keeps a bound.

    python clients/benchmark.py --url grpc://127.0.0.1:8001 --scenarios single-stream offline server PICTURES...

The scenarios and what their figures mean are in docs/benchmarking.md; the code is in sparseinst_client/benchmark.
"""

from __future__ import annotations

import sys

from sparseinst_client.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
