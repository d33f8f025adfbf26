"""`redis`: a snapshot of the broker. The cache is not backed up: it may forget anything at any time."""
