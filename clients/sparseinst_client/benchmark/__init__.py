"""Measure a running server under load, and say what each figure means: `sparseinst-client bench`.

`load` sends and times, `levels` turns that into rows, `search` looks for the highest rate that holds, `server` reads
Triton's own counters, `perf_analyzer` drives NVIDIA's load generator, `scenarios` puts them together. `shapes` and
`workload` also serve `clients/locustfile.py`.
"""
