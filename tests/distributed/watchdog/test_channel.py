from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from launcher.distributed.watchdog.channel import MAX_TEXT, NullChannel, UdpChannel, open_coordinator, open_peer


@pytest.fixture
def pair() -> Iterator[tuple[UdpChannel, UdpChannel]]:
    """Rank 0's channel and another rank's."""
    coordinator, address = open_coordinator("127.0.0.1", is_one_node=True)
    peer = open_peer(*address)
    yield coordinator, peer
    coordinator.close()
    peer.close()


def test_messages_go_both_ways(pair: tuple[UdpChannel, UdpChannel]) -> None:
    coordinator, peer = pair
    coordinator.send(3, {"rank": 0})  # its address is not known yet: lost
    peer.send(0, {"rank": 3, "words": "größe"})
    assert coordinator.receive(5) == {"rank": 3, "words": "größe"}
    coordinator.send(3, {"rank": 0, "ending": None})
    assert peer.receive(5) == {"rank": 0, "ending": None}
    assert peer.receive(0.01) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"3", b"{}", b'{"token": 1, "rank": 0}', json.dumps({"token": "0" * 32, "rank": 1}).encode()],
)
def test_a_message_of_another_run_is_ignored(pair: tuple[UdpChannel, UdpChannel], content: bytes) -> None:
    coordinator, _ = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(content, coordinator.socket.getsockname())
    assert coordinator.receive(0.2) is None
    assert coordinator.senders == {}


def test_sending_to_a_closed_coordinator_is_no_error(pair: tuple[UdpChannel, UdpChannel]) -> None:
    coordinator, peer = pair
    coordinator.close()
    for _ in range(3):
        peer.send(0, {"rank": 3})
        assert peer.receive(0.01) is None


def test_rank_0_listens_at_an_address_for_other_nodes() -> None:
    """The master is this node: its host name, and never 127.0.0.1 under another name."""
    name = socket.gethostname()
    coordinator, address = open_coordinator(name, is_one_node=False)
    peer = open_peer(*address)
    peer.send(0, {"rank": 1})
    assert coordinator.receive(5) == {"rank": 1}
    assert not address[0].startswith("127.")
    coordinator.close()
    peer.close()


def test_the_longest_text_fits_a_message(pair: tuple[UdpChannel, UdpChannel]) -> None:
    coordinator, peer = pair
    message = {"rank": 3, "text": MAX_TEXT * "\N{WHALE}"}
    peer.send(0, message)
    assert coordinator.receive(5) == message


def test_closing_a_null_channel_wakes_its_reader() -> None:
    channel = NullChannel()
    channel.send(0, {})
    assert channel.receive(0.01) is None
    channel.close()
    assert channel.receive(100) is None
