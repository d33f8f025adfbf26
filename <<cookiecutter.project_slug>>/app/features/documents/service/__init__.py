"""What can be done with documents, a module for each kind of work."""
