from __future__ import annotations

import pytest

from launcher.recipe.url import has_credentials, hide_credentials, is_url


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("https://me:word@host/x", "https://***@host/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("s3://key:word@bucket/x", "s3://***@bucket/x"),
        ("HTTPS://me:word@host", "HTTPS://***@host"),
        ("zip://a::http://me:word@host/y.zip", "zip://a::http://***@host/y.zip"),
        ("https://host/x?X-Amz-Signature=abc&y=%20", "https://host/x?***"),
    ],
)
def test_credentials_are_found_and_hidden(url: str, hidden: str) -> None:
    assert is_url(url)
    assert has_credentials(url)
    assert hide_credentials(f"403,\n url='{url}' (again {url})") == f"403, url='{hidden}' (again {hidden})"
    assert not has_credentials(hidden.replace("***@", "").replace("?***", ""))


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "abfs://box@account.dfs.core.windows.net/x", "https://host:8080/a@b", "file:///a/b"]
)
def test_url_without_credentials_stays(url: str) -> None:
    assert is_url(url)
    assert not has_credentials(url)
    assert hide_credentials(f"is {url} there?") == f"is {url} there?"


@pytest.mark.parametrize("place", ["data/digits", "/x/y", "C:/x", "s3:bucket"])
def test_folder_is_no_url(place: str) -> None:
    assert not is_url(place)
