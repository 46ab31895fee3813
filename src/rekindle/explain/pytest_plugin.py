"""For pytest: an explanation below the traceback of a test that failed.

Asked for with ``pytest --rekindle-explain`` or ``rekindle_explain = true`` in the settings of pytest; else it does
nothing. The report of the test gets a section; exception, outcome and exit code stay.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

__all__ = ["pytest_addoption", "pytest_runtest_makereport"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option and the setting."""
    words = "explain known PyTorch errors below the traceback of a failed test"
    parser.getgroup("rekindle").addoption("--rekindle-explain", action="store_true", default=False, help=words)
    parser.addini("rekindle_explain", words, type="bool", default=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the explanation to the report of a test, its set-up or its end that failed."""
    report = yield
    config = item.config
    if report.failed and call.excinfo and (config.getoption("rekindle_explain") or config.getini("rekindle_explain")):
        from rekindle.explain.hooks import silent_explanation  # noqa: PLC0415 - only when a test failed

        text = silent_explanation(call.excinfo.value)
        if text:
            report.sections.append(("rekindle explains", text))
    return report
