"""The write-ahead log: received as it is written, stored by the segment, and what makes any second of the last days reachable."""
