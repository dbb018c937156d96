"""The run folder: who holds it, what a training writes there (journal, console, W&B, logs, charts), reading it back."""
