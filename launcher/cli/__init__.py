"""The command line: verbs, their table, and what becomes of a command."""
