"""The mode is online when W&B can log in without a question, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from launcher.run.mirror import choose_mode
from launcher.run.wandb import Mode
from tests.run.wandb_program import KEY

SAAS, OWN = "machine api.wandb.ai login user password k\n", "machine wandb.lan:8080 login user password k\n"


@pytest.mark.parametrize(
    ("requested", "environment", "netrc", "mode"),
    [
        ("online", {"WANDB_MODE": "offline"}, "", "online"),
        ("disabled", {"WANDB_API_KEY": KEY}, "", "disabled"),
        ("auto", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "", "online"),
        ("auto", {"WANDB_API_KEY": ""}, "", "offline"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "/token"}, "", "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "", "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "", "disabled"),
        ("auto", {"WANDB_MODE": "online"}, "", "online"),
        ("auto", {"WANDB_MODE": "dryrun"}, "", "offline"),
        ("auto", {}, SAAS, "online"),
        ("auto", {"WANDB_BASE_URL": ""}, SAAS, "online"),
        ("auto", {"WANDB_BASE_URL": "http://wandb.lan:8080"}, SAAS, "offline"),
        ("auto", {"WANDB_BASE_URL": "http://wandb.lan:8080/"}, OWN, "online"),
        ("auto", {"WANDB_BASE_URL": "http://wandb.lan"}, OWN, "offline"),
        ("auto", {}, "machine api.wandb.ai login user\n", "offline"),
        ("auto", {}, "machine api.wandb.ai lo", "offline"),
        ("auto", {}, b"\xff\xfe\x00machine", "offline"),
    ],
)
def test_the_mode_is_one_that_needs_no_question(
    tmp_path: Path,
    requested: Literal["auto", "online", "disabled"],
    environment: dict[str, str],
    netrc: str | bytes,
    mode: Mode,
) -> None:
    path = tmp_path / "netrc"
    path.write_bytes(netrc if isinstance(netrc, bytes) else netrc.encode())
    assert choose_mode(requested, environment | {"NETRC": str(path)}) == mode


def test_without_a_netrc_there_are_no_credentials(tmp_path: Path) -> None:
    assert choose_mode("auto", {"NETRC": str(tmp_path / "absent")}) == "offline"
    assert choose_mode("auto", {"NETRC": str(tmp_path)}) == "offline"
