"""What `--mode=benchmark` can time; a measurement a file."""
