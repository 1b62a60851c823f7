"""Scenarios: what is measured, one file each; each has `NAME`, `TITLE` and `cases(room)`."""
