"""Cutting whole answers into segments, losslessly, and aligning two versions of one."""

from lpo.segmentation.alignment import align, align_texts
from lpo.segmentation.splitting import split_segments

__all__ = ["align", "align_texts", "split_segments"]
