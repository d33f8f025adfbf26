"""Deploys to Heroku, Render and Railway by their own interfaces: docs/paas.md. Needs nothing but Python."""
