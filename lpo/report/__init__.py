"""The report of a run, and the comparison of several: one HTML page to read, share and print."""

from lpo.report.comparison import write_comparison
from lpo.report.page import write_report

__all__ = ["write_comparison", "write_report"]
