"""Detects hangs and crashes, and names the rank that caused them.

The training of each rank sets a `Beacon`; a thread sends it to rank 0 as a heartbeat, by UDP. Rank 0 keeps the newest
heartbeat of every rank in a `HangDetector`; when one rank makes no progress, all end with one line that names it.

UDP and not torch.distributed's store: the store ends with rank 0, and a call to it can block as the training does.
"""
