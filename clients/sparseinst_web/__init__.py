"""A web page to try a SparseInst server in: a small gateway between browsers and Triton, and the page itself.

`python -m sparseinst_web` serves it, `create_app` is the ASGI application. The page is plain HTML, CSS and ES modules
in `static/`, without a build step and without anything from elsewhere: it works where there is no internet.
"""

from sparseinst_web.app import create_app
from sparseinst_web.settings import Settings

__all__ = ["Settings", "create_app"]
