"""Dataset tools: other annotation formats to COCO JSON (`convert`), and a data set's faults in words (`check`)."""

from __future__ import annotations

from sparseinst.datasets.check import check
from sparseinst.datasets.convert import FORMATS, Conversion, convert
from sparseinst.datasets.findings import Finding, Report

__all__ = ["FORMATS", "Conversion", "Finding", "Report", "check", "convert"]
