"""Side by side on one machine: what is served here against what else segments instances, on the same pictures.

    ci/bench_peers.sh --rounds 12

Every contender has a process of its own and works only when it is its turn; rounds alternate between all of them. A
script of the checkout and no package: it needs torch, the client and the server at once, which no room of the project
may have.
"""
