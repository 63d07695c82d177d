"""Command lines in, exit codes out: one module a command."""
