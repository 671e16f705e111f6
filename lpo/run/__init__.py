"""The pipeline: build → train → eval → report in one run directory that survives being killed at any instant."""
