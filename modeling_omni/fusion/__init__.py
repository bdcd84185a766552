"""Several streams into one."""
