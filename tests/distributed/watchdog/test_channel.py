from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from launcher.distributed.watchdog.channel import Post, Postless, open_boss, open_follower


@pytest.fixture
def pair() -> Iterator[tuple[Post, Post]]:
    """Rank 0's and another's."""
    boss, host = open_boss("127.0.0.1", is_one_node=True)
    follower = open_follower(host, boss.socket.getsockname()[1], boss.token)
    yield boss, follower
    boss.close()
    follower.close()


def test_there_and_back(pair: tuple[Post, Post]) -> None:
    boss, follower = pair
    boss.send(3, {"rank": 0})  # not heard of yet: goes nowhere
    follower.send(0, {"rank": 3, "words": "größe"})
    assert boss.receive(5) == {"rank": 3, "words": "größe"}
    boss.send(3, {"rank": 0, "over": None})
    assert follower.receive(5) == {"rank": 0, "over": None}
    assert follower.receive(0.01) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"3", b"{}", b'{"token": 1, "rank": 0}', json.dumps({"token": "0" * 32, "rank": 1}).encode()],
)
def test_what_is_not_ours_is_left_alone(pair: tuple[Post, Post], content: bytes) -> None:
    boss, _ = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(content, boss.socket.getsockname())
    assert boss.receive(0.2) is None
    assert boss.senders == {}


def test_nobody_there_is_no_error(pair: tuple[Post, Post]) -> None:
    boss, follower = pair
    boss.close()
    for _ in range(3):
        follower.send(0, {"rank": 3})
        assert follower.receive(0.01) is None


def test_rank_0_is_found_where_the_other_nodes_can_see_it() -> None:
    """The address by which this node sees the master, which here is itself; never 127.0.0.1 under another name."""
    name = socket.gethostname()
    boss, host = open_boss(name, is_one_node=False)
    follower = open_follower(host, boss.socket.getsockname()[1], boss.token)
    follower.send(0, {"rank": 1})
    assert boss.receive(5) == {"rank": 1}
    assert not host.startswith("127.")
    boss.close()
    follower.close()


def test_alone_there_is_nothing_to_hear_and_closing_wakes() -> None:
    post = Postless()
    post.send(0, {})
    assert post.receive(0.01) is None
    post.close()
    assert post.receive(100) is None
