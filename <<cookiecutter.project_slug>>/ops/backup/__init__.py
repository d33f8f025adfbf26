"""Backup and restore of PostgreSQL: `python -m ops.backup --help`, docs/runbook/restore.md.

A backup is a dump and, written last, its manifest. What has no manifest is no backup, so a run that dies half way never
looks like one. A restore goes into a new database, is compared with the manifest, and only then takes the live name.
"""
