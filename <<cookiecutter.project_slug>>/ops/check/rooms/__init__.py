"""Checks of the rooms that a project may have: each module here brings `CHECKS`."""
