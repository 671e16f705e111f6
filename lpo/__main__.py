"""`python -m lpo`."""

from lpo.cli import main

main()
