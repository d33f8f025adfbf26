"""The Procfile as it stands, started as a platform would: without nginx, behind a router."""
