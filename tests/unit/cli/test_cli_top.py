"""What Services carry, from two pages of counters."""

from netplane.cli.top import busiest, counts, together

LABELS = 'namespace="d",service="web",port="http",protocol="TCP"'
OTHER = LABELS.replace("web", "quiet")


def page(connections, sent, active):
    return f"""# TYPE netplane_service_connections counter
netplane_service_connections_total{{{LABELS}}} {connections}
netplane_service_connections_total{{{OTHER}}} 7
# TYPE netplane_service_active_connections gauge
netplane_service_active_connections{{{LABELS}}} {active}
# TYPE netplane_service_bytes counter
netplane_service_bytes_total{{{LABELS},direction="in"}} 10
netplane_service_bytes_total{{{LABELS},direction="out"}} {sent}
# TYPE netplane_service_rejected counter
netplane_service_rejected_total{{{LABELS},reason="timeout"}} 2
netplane_service_rejected_total{{{LABELS},reason="no-endpoint"}} 3
"""


def test_rates_are_of_what_has_come_between_two_looks():
    (row,) = together(busiest(counts(page(10, 1000, 2)), counts(page(30, 5000, 3)), 2.0))
    assert row == {
        "service": "d/web:http/tcp",
        "active": 3.0,
        "connections": 10.0,
        "in": 0.0,
        "out": 2000.0,
        "retries": None,
        "rejected": 0.0,
    }


def test_a_counter_that_was_begun_anew_counts_from_nothing():
    (row,) = busiest(counts(page(1000, 10**9, 2)), counts(page(4, 100, 0)), 1.0)
    assert (row["connections"], row["out"], row["active"]) == (4.0, 100.0, 0.0)


def test_the_busiest_comes_first():
    after = {
        ("a", ""): {"connections": 5.0},
        ("b", ""): {"out": 9.0},
        ("c", ""): {"connections": 50.0},
        ("d", ""): {"connections": 0.0},
    }
    assert [row["service"] for row in busiest({}, after, 1.0)] == ["b", "c", "a"]


def by_endpoint(**connections):
    labels = 'namespace="d",service="web",port="http",protocol="TCP"'
    lines = [
        f'netplane_service_connections_total{{{labels},endpoint="{name.replace("_", ".")}:80"}} {count}'
        for name, count in connections.items()
    ]
    return counts("\n".join(["# TYPE netplane_service_connections counter", *lines, ""]))


def test_endpoints_are_told_apart_and_summed_up():
    rows = busiest(by_endpoint(e1=10, e2=100), by_endpoint(e1=14, e2=101, e3=5), 1.0)
    assert [(row["endpoint"], row["connections"]) for row in rows] == [
        ("e3:80", 5.0),
        ("e1:80", 4.0),
        ("e2:80", 1.0),
    ]
    (row,) = together(rows)
    assert (row["service"], row["connections"], row["retries"]) == ("d/web:http/tcp", 10.0, None)


def test_an_endpoint_whose_counters_have_ended_is_not_taken_for_a_counter_that_was_begun_anew():
    (row,) = together(busiest(by_endpoint(e1=10, e2=10**9), by_endpoint(e1=12), 1.0))
    assert row["connections"] == 2.0
