"""Hangs and crashes in words: every rank reports where it is, on a channel that the training does not use.

Each process has a `Beacon` that the training sets, and a thread that sends it to rank 0 as a heartbeat, by UDP. Rank 0
keeps the newest heartbeat of every rank in a `HangDetector`, and ends all of them with one line when one stands still.

UDP and not torch.distributed's store: the store ends with rank 0, and a call to it may block as the training does.
"""
