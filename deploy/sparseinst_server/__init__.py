"""A real Triton Inference Server on this machine, from PyPI, without a container: for demos, tests and small set-ups.

    with TritonServer("build/model_repository") as server:
        Client(server.grpc_url).segment("picture.jpg")

or `python -m sparseinst_server --repository build/model_repository`.
"""

from sparseinst_server.doors import Doors, Tls
from sparseinst_server.locate import Installation, InstallationError, locate
from sparseinst_server.server import ServerError, TritonServer

__all__ = ["Doors", "Installation", "InstallationError", "ServerError", "Tls", "TritonServer", "locate"]
