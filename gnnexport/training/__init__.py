"""Training of Programs: tasks, losses, and the loop that retrains a compressed Program."""
