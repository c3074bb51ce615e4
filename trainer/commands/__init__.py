"""The verbs of the command line, one a file: where the rooms meet."""
