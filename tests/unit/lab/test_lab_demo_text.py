"""What the demo prints, from what was seen."""

from pathlib import Path

from netplane.lab.demo_text import Answers, render

ANSWERS = (
    Answers(
        "hello-a on n1",
        "10.244.1.2",
        "http://hello/",
        (
            {"pod": "hello-b", "node": "n2", "client": "10.244.1.2"},
            {"pod": "hello-a", "node": "n1", "client": "192.168.77.11"},
            {"pod": "hello-b", "node": "n2", "client": "10.244.1.2"},
        ),
    ),
    Answers("outside the nodes", "192.168.77.1", "http://192.168.77.11:30080/", ({"error": "refused"},)),
)


def test_answers_are_counted_by_pod_and_by_the_client_it_saw():
    assert ANSWERS[0].counted() == [("hello-a", "n1", "192.168.77.11", 1), ("hello-b", "n2", "10.244.1.2", 2)]
    assert ANSWERS[0].failures == 0
    assert ANSWERS[1].counted() == [("no answer: refused", "", "", 1)]
    assert ANSWERS[1].failures == 1


def test_the_text_has_the_table_the_explanation_and_what_to_do_next():
    text = render("./netplane", "a", Path("/labs/a/kubeconfig"), ANSWERS, "HOP 1 the route\n")
    lines = text.splitlines()
    assert any(line.split()[-3:] == ["n2", "10.244.1.2", "2"] for line in lines if line)
    assert "no answer: refused" in text
    assert "HOP 1 the route" in text
    assert "export KUBECONFIG=/labs/a/kubeconfig" in text
    assert "./netplane lab down --name a" in text
    assert all(line == line.rstrip() for line in lines)
