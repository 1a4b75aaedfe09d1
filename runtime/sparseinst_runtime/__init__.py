"""What runs around the network, once for everybody: contract, limits, decoding, letterbox, masks.

NumPy, OpenCV, Pillow and pycocotools; never torch. Training, export, server and clients all import this package.
"""

from sparseinst_runtime.contract import Contract, ContractError, TensorSpec
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Header, Limits, PictureError

__all__ = ["Contract", "ContractError", "Header", "Instances", "Letterbox", "Limits", "PictureError", "TensorSpec"]
