"""Numbers that stay with instances from frame to frame, by ByteTrack.

It is in `trackers`, by the people of supervision. That is no dependency of ours: it asks for opencv-python, which would
take the place of opencv-python-headless; everything else that it uses, supervision brings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparseinst_runtime.exchange import needed
from sparseinst_runtime.instances import Instances

INSTALL = "pip install --no-deps 'trackers>=2.6,<3'"
NONE = -1  # the number of what has none yet
# SparseInst's scores are products, and lower than those that the package's own bounds (0.7, 0.6) were made for.
_SURE = 0.5


class Tracker:
    """The tracks of one video; ask it for every frame, in order.

    Args:
        rate: frames a second.

    Raises:
        ModuleNotFoundError: the package `trackers` is not installed.
    """

    def __init__(self, rate: float) -> None:
        self._tracker = needed("trackers", "tracking", INSTALL).ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=_SURE, high_conf_det_threshold=_SURE
        )

    def numbers(self, found: Instances) -> NDArray[np.int64]:
        """int64 [K], the number of each instance of the next frame, or -1 until it was seen twice."""
        import supervision as sv  # noqa: PLC0415 - takes a second, and who does not draw does not need it

        order = np.arange(len(found))
        boxes = sv.Detections(
            xyxy=found.boxes.astype(np.float64), confidence=found.scores.astype(np.float64), data={"order": order}
        )
        tracked = self._tracker.update(boxes)
        numbers = np.full(len(found), NONE, np.int64)
        if len(tracked):
            numbers[tracked.data["order"]] = tracked.tracker_id
        return numbers
