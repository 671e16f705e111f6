"""The suites, one file each; `create_suite` makes them from their settings."""

from lpo.evaluation.suites.create import create_suite

__all__ = ["create_suite"]
