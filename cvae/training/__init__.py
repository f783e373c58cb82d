"""The training loop and what it needs: optimizer, history, saved state, progress display, several processes."""
