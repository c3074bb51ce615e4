"""What `--mode=doctor` checks, a module a group; see `doctor.perform`."""
