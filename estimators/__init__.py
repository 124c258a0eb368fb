"""Methods that follow the trajectory, and all that outsiders send."""
