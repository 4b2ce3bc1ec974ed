"""Chooses, records and shows: the search over trials and everything that is told about it."""
