"""Short messages between rank 0 and the others, by UDP: no connections, no blocking; a lost one is sent again.

Every message carries the run's token: those of other runs are ignored. Messages are JSON: nothing in them executes.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from launcher.distributed.network import is_loopback, own_address, resolve

Message = dict[str, Any]
Address = tuple[Any, ...]

MAX_TEXT = 5_000
"""Characters of text in a message: JSON needs up to 12 bytes for one, and a datagram holds 65,507."""

SLICE_S = 0.1
"""Longest wait of `receive`: closing a socket in another thread does not wake it."""


class Channel(Protocol):
    def send(self, rank: int, message: Message) -> None:
        """Send, or lose the message: another one follows."""

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none has come within `timeout_s`, or earlier: call again."""

    def close(self) -> None: ...


class NullChannel:
    """For a single process."""

    def __init__(self) -> None:
        self._is_closed = threading.Event()

    def send(self, rank: int, message: Message) -> None:
        pass

    def receive(self, timeout_s: float) -> Message | None:
        self._is_closed.wait(timeout_s)
        return None

    def close(self) -> None:
        self._is_closed.set()


@dataclass(frozen=True)
class UdpChannel:
    """A socket of this rank. `coordinator`: address of rank 0's socket; None on rank 0."""

    socket: socket.socket
    token: str
    coordinator: Address | None
    senders: dict[int, Address] = field(default_factory=dict)
    """Address of each rank: the sender of its last message."""

    def send(self, rank: int, message: Message) -> None:
        address = self.coordinator if rank == 0 else self.senders.get(rank)
        if address is not None:
            with suppress(OSError):
                self.socket.sendto(json.dumps({**message, "token": self.token}).encode(), address)

    def receive(self, timeout_s: float) -> Message | None:
        try:
            self.socket.settimeout(max(min(timeout_s, SLICE_S), 0.001))
            content, address = self.socket.recvfrom(65_536)
            message = json.loads(content)
            if not secrets.compare_digest(str(message.pop("token")), self.token):
                return None
            self.senders[int(message["rank"])] = address
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None  # no message, or not one of this run
        return dict(message)

    def close(self) -> None:
        self.socket.close()


def open_coordinator(master: str, is_one_node: bool) -> tuple[UdpChannel, tuple[str, int, str]]:
    """Rank 0's channel, and the arguments of `open_peer` for the other ranks. Raise OSError.

    `master`: host that all ranks can reach, as in MASTER_ADDR.
    """
    host = "127.0.0.1" if is_one_node else master
    family, _ = resolve(host, 9)
    if not is_one_node:
        own = own_address(master)
        host = master if is_loopback(own) else own
    listener = socket.socket(family, socket.SOCK_DGRAM)
    listener.bind((host if is_one_node else "", 0))
    token = secrets.token_hex(16)
    return UdpChannel(listener, token, None), (host, int(listener.getsockname()[1]), token)


def open_peer(host: str, port: int, token: str) -> UdpChannel:
    """Another rank's channel. Raise OSError when `host` cannot be resolved."""
    family, address = resolve(host, port)
    return UdpChannel(socket.socket(family, socket.SOCK_DGRAM), token, address)
