"""Files that survive a crash: atomic writes, verified reads, and the checkpoint of a setting."""
