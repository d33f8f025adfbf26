"""Bring a newer template into this project: `python -m ops.template_update`. Needs Python and git, and no environment."""
