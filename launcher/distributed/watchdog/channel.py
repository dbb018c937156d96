"""Short messages between rank 0 and the others, by UDP: nothing connects, nothing blocks, and a lost one is sent again.

Every message carries the run's token, so that no other run's is taken for one. JSON, nothing that executes.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]
Address = tuple[Any, ...]

MAX_BYTES = 60_000

SLICE_S = 0.1
"""Longest wait of `receive`: a socket that another thread closes does not wake it."""


class Channel(Protocol):
    def send(self, rank: int, message: Message) -> None:
        """A message that cannot be sent is lost: the next one may come through."""

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none has come in time, or sooner: ask again."""

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
    """A socket of this process. `coordinator`: where rank 0 listens; None on rank 0 itself."""

    socket: socket.socket
    token: str
    coordinator: Address | None
    senders: dict[int, Address] = field(default_factory=dict)
    """Where answers to a rank go: where its last message came from."""

    def send(self, rank: int, message: Message) -> None:
        address = self.coordinator if rank == 0 else self.senders.get(rank)
        if address is not None:
            with suppress(OSError):
                self.socket.sendto(json.dumps({**message, "token": self.token}).encode(), address)

    def receive(self, timeout_s: float) -> Message | None:
        try:
            self.socket.settimeout(max(min(timeout_s, SLICE_S), 0.001))
            content, address = self.socket.recvfrom(MAX_BYTES + 1000)
            message = json.loads(content)
            if not secrets.compare_digest(str(message.pop("token")), self.token):
                return None
            self.senders[int(message["rank"])] = address
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None  # nothing came, or nothing of ours
        return dict(message)

    def close(self) -> None:
        self.socket.close()


def open_coordinator(master: str, is_one_node: bool) -> tuple[UdpChannel, str]:
    """Rank 0's channel, and the name or number that the other ranks reach it by. Raise OSError.

    `master`: a node that all ranks can reach, as MASTER_ADDR is.
    """
    host = "127.0.0.1" if is_one_node else master
    family, address = _resolve(host, 9)
    if not is_one_node:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing, but tells which of this node's addresses the others see
            seen = str(probe.getsockname()[0])
        host = master if seen.startswith("127.") or seen == "::1" else seen
    listener = socket.socket(family, socket.SOCK_DGRAM)
    listener.bind((host if is_one_node else "", 0))
    return UdpChannel(listener, secrets.token_hex(16), None), host


def open_peer(host: str, port: int, token: str) -> UdpChannel:
    """Raise OSError when the name means nothing here."""
    family, address = _resolve(host, port)
    return UdpChannel(socket.socket(family, socket.SOCK_DGRAM), token, address)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address
