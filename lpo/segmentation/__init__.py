"""Cutting whole answers into segments, losslessly, and aligning two versions of one."""
