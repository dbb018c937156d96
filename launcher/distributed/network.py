"""The meeting place of ranks: environment variables, addresses and interfaces. Sends nothing; needs no torch."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from launcher.distributed.world import World
from launcher.errors import UserError

OUTSIDE = "192.0.2.1"
"""An address of no node (RFC 5737): the way to it is the default route."""

IF_INET6 = Path("/proc/net/if_inet6")
SIOCGIFADDR = 0x8915
NAME_BYTES = 15
"""Longest name of an interface."""


def complete_environment(world: World, environment: MutableMapping[str, str]) -> None:
    """Set the variables of torch.distributed that `srun` alone does not set. Several nodes need a MASTER_ADDR."""
    if world.num_nodes > 1 and "MASTER_ADDR" not in environment:
        raise UserError("MASTER_ADDR is not set: export the first node's name and a free MASTER_PORT before srun")
    if world.num_nodes > 1:
        # gloo's own choice is what this node's name means: loopback on many, where NCCL chooses better.
        interface = find_interface(environment["MASTER_ADDR"])
        if interface is not None:
            environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    defaults = {
        "RANK": world.rank,
        "WORLD_SIZE": world.size,
        "LOCAL_RANK": world.local_rank,
        "LOCAL_WORLD_SIZE": world.local_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000,
    }
    for name, value in defaults.items():
        environment.setdefault(name, str(value))


def find_interface(master: str) -> str | None:
    """Name of the interface through which this node reaches `master`; None when it is known by loopback only.

    On the master itself its name may mean loopback (Debian's `127.0.1.1 hostname`): then that of the default route.
    """
    names = read_interfaces()
    for host in (master, OUTSIDE):
        with suppress(OSError):
            address = own_address(host)
            if not is_loopback(address) and address in names:
                return names[address]
    return None


def own_address(host: str) -> str:
    """The address of this node that `host` sees. Raise OSError when the host is unknown or has no route."""
    family, address = resolve(host, 9)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing: the kernel only looks up the route
        return str(probe.getsockname()[0])


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Family and address for a UDP socket. Raise OSError when the host is unknown."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def read_interfaces() -> dict[str, str]:
    """Address -> name of its interface."""
    names: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no IPv4 address
                request = struct.pack("256s", name.encode()[:NAME_BYTES])
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                names[socket.inet_ntoa(answer[20:24])] = name
    if IF_INET6.exists():
        for line in IF_INET6.read_text().splitlines():
            digits, *_, name = line.split()
            address = ipaddress.IPv6Address(int(digits, 16))
            if not address.is_link_local:  # each interface may have the same
                names[str(address)] = name
    return names
