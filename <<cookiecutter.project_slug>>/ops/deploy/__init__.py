"""Where the service runs: one folder a target."""
