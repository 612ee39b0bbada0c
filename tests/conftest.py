"""What holds for every tier: who may run here, and what a skip means."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# `./dev test long` looks further; every other run wants its answer now. How long an example takes is the machine's.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.register_profile(
    "emulated", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure() -> None:
    """A run that is told to end (by a time limit) ends as at ^C: fixtures take away what they made."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden files are written by the tests that read them, when asked."""
    parser.addoption("--record", action="store_true", help="write what is printed now into the golden files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tiers follow the folders; the kernel tiers need root and say so."""
    root = os.geteuid() == 0
    for item in items:
        tier = next((t for t in ("netns", "e2e") if f"tests/{t}/" in str(item.path)), None)
        if tier is not None:
            item.add_marker(tier)
        if (tier is not None or item.get_closest_marker("netns")) and not root:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close with the plain count that any reader of a log understands."""
    count = {
        key: len(terminalreporter.stats.get(key, [])) for key in ("passed", "failed", "error", "skipped")
    }
    failed = count["failed"] + count["error"]
    terminalreporter.write_line(f"{count['passed']} passed, {failed} failed, {count['skipped']} skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip is a failure unless it is marked as expected there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("CI") != "true"
        or reporter is None
        or exitstatus != 0
        or hasattr(session.config, "workerinput")
    ):
        return
    unexpected = [r for r in reporter.stats.get("skipped", []) if "expected skip" not in str(r.longrepr)]
    if unexpected:
        session.exitstatus = 1
