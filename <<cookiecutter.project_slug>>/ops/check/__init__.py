"""Every checker of code and configuration behind one door: `make check`."""
