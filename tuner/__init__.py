"""Chooses, records and shows: the search over trials and everything that is told about it."""

VERSION = "0.1.0"  # here, since a node or a job may run the package without installing it
