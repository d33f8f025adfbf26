"""`objects`: an incremental mirror of the application's bucket that remembers what was deleted and overwritten."""
