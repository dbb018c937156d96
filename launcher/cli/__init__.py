"""The command line: its commands, and how a command ends."""
