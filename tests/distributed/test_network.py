from __future__ import annotations

import socket

import pytest

from launcher.distributed import network
from launcher.distributed.network import complete_environment, find_interface, own_address, read_interfaces
from launcher.distributed.world import World

TWO_NODES = World(rank=1, size=2, local_rank=0, local_size=1, node=1, num_nodes=2)


def test_srun_gets_the_variables_of_torch() -> None:
    environment = {"SLURM_JOB_ID": "70123", "MASTER_PORT": "4000"}
    complete_environment(World(rank=3, size=4, local_rank=1, local_size=2), environment)
    assert environment == {
        "SLURM_JOB_ID": "70123",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4000",
    }


def test_loopback_is_an_interface() -> None:
    assert read_interfaces()["127.0.0.1"] == "lo"
    assert set(read_interfaces().values()) <= {name for _, name in socket.if_nameindex()}


def test_the_address_that_a_host_sees_is_one_of_this_node() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"


class Node:
    """One that reaches hosts from certain addresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
        self.addresses = {name.replace("_", "."): address for name, address in addresses.items()}
        interfaces = {"127.0.0.1": "lo", "10.0.0.7": "eth0", "192.168.1.7": "ib0", "fd00::7": "ib1"}
        monkeypatch.setattr(network, "read_interfaces", lambda: interfaces)
        monkeypatch.setattr(network, "own_address", self.own_address)

    def own_address(self, host: str) -> str:
        if host not in self.addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return self.addresses[host]


OUTSIDE = {"192_0_2_1": "10.0.0.7"}


def test_gloo_uses_the_interface_that_reaches_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    Node(monkeypatch, master="192.168.1.7", **OUTSIDE)
    environment = {"MASTER_ADDR": "master"}
    complete_environment(TWO_NODES, environment)
    assert environment["GLOO_SOCKET_IFNAME"] == "ib0"


def test_an_ipv6_address_has_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    Node(monkeypatch, master="fd00::7")
    assert find_interface("master") == "ib1"


def test_on_the_master_whose_name_means_loopback_it_is_the_default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    Node(monkeypatch, master="127.0.0.1", **OUTSIDE)
    assert find_interface("master") == "eth0"


@pytest.mark.parametrize("addresses", [{"master": "127.0.0.1"}, {}, {"master": "172.16.0.9"}])
def test_gloo_chooses_where_no_interface_is_found(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str]) -> None:
    Node(monkeypatch, **addresses)
    environment = {"MASTER_ADDR": "master"}
    complete_environment(TWO_NODES, environment)
    assert "GLOO_SOCKET_IFNAME" not in environment


def test_the_users_own_interface_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    Node(monkeypatch, master="192.168.1.7")
    environment = {"MASTER_ADDR": "master", "GLOO_SOCKET_IFNAME": "bond0"}
    complete_environment(TWO_NODES, environment)
    assert environment["GLOO_SOCKET_IFNAME"] == "bond0"


def test_a_single_node_chooses_no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    Node(monkeypatch, master="192.168.1.7", **OUTSIDE)
    environment = {"MASTER_ADDR": "master"}
    complete_environment(World(rank=1, size=2, local_rank=1, local_size=2), environment)
    assert "GLOO_SOCKET_IFNAME" not in environment
