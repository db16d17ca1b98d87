"""Benchmarks of the compiler: each a command that prints a table and writes a JSON file."""
