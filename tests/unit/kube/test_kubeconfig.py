"""A kubeconfig that cannot be used says where it breaks off, in one line."""

import pytest

from netplane.errors import ConfigError
from netplane.kube.kubeconfig import Bearer, Kubeconfig

WHOLE = """
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'https://192.0.2.1:6443/'}}]
users: [{name: u, user: {token: t}}]
"""


def test_the_current_context_is_followed(tmp_path):
    (tmp_path / "config").write_text(WHOLE)
    found = Kubeconfig.load(tmp_path / "config")
    assert (found.server, found.token) == ("https://192.0.2.1:6443", "t")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "{",
            "cannot read kubeconfig FILE: line 1, column 2: expected the node content, but found '<stream end>'",
        ),
        ("[]", "cannot read kubeconfig FILE: it is not a mapping"),
        ("x: y", "cannot use kubeconfig FILE: current-context is missing"),
        (WHOLE.replace("current-context: c", "current-context: d"), "contexts: there is no entry named 'd'"),
        (WHOLE.replace("user: u}", "user: v}"), "users: there is no entry named 'v'"),
        (WHOLE.replace("server", "serve"), "clusters: 'server' is missing"),
        (WHOLE.replace("token: t", "exec: {}"), "users: 'exec' is not supported"),
        (WHOLE.replace("token: t", "password: p"), "users: 'password' is not supported by netplane"),
        (WHOLE.replace("cluster: {", "cluster: {proxy-url: p, "), "clusters: 'proxy-url' is not supported"),
        (WHOLE.replace("token: t", "tokenFile: none"), "tokenFile DIRECTORY/none: No such file or directory"),
        (WHOLE.replace("token: t", "tokenFile: /dev/null"), "tokenFile /dev/null: it is empty"),
        (WHOLE.replace("token: t", "client-key: /nowhere"), "client-key: No such file or directory"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, cause):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as info:
        Kubeconfig.load(path)
    assert cause.replace("FILE", str(path)).replace("DIRECTORY", str(tmp_path)) in str(info.value)
    assert "\n" not in str(info.value)


def test_a_token_in_a_file_beside_it_comes_before_one_that_is_written_down(tmp_path):
    (tmp_path / "config").write_text(WHOLE.replace("token: t", "token: t, tokenFile: token"))
    (tmp_path / "token").write_text("first\n")
    found = Kubeconfig.load(tmp_path / "config")
    bearer = Bearer(found)
    assert (found.token, bearer.headers) == ("first", {"Authorization": "Bearer first"})
    for text, sent in (("second", "second"), ("", "second"), ("third", "third")):
        (tmp_path / "fresh").write_text(text)
        (tmp_path / "fresh").rename(tmp_path / "token")
        assert bearer.headers == {"Authorization": f"Bearer {sent}"}
    (tmp_path / "token").unlink()
    assert bearer.headers == {"Authorization": "Bearer third"}, "the last one that could be read"


def test_who_has_no_token_sends_none(tmp_path):
    (tmp_path / "config").write_text(WHOLE.replace("token: t", "client-certificate-data: ''"))
    assert Bearer(Kubeconfig.load(tmp_path / "config")).headers == {}


def test_no_file_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file\. Pass --kubeconfig FILE"):
        Kubeconfig.load(tmp_path / "none")
