"""The `lpo` command."""

from lpo.cli.app import main

__all__ = ["main"]
