"""The command line: arguments and exit codes, no logic."""
