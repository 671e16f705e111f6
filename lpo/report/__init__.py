"""The report of a run: one HTML page to read, share and print."""

from lpo.report.page import write_report

__all__ = ["write_report"]
