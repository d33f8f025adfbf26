"""nginx: its configuration, and the little program that renders it outside of a container."""
