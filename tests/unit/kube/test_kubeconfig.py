"""A kubeconfig that cannot be used says where it breaks off, in one line."""

import pytest

from netplane.errors import ConfigError
from netplane.kube.kubeconfig import Kubeconfig

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
        (WHOLE.replace("token: t", "client-key: /nowhere"), "client-key: No such file or directory"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, cause):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as info:
        Kubeconfig.load(path)
    assert cause.replace("FILE", str(path)) in str(info.value)
    assert "\n" not in str(info.value)


def test_no_file_says_how_to_name_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file\. Pass --kubeconfig FILE"):
        Kubeconfig.load(tmp_path / "none")
