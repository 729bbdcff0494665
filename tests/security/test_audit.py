"""An audit that could not ask anybody says so, instead of that all is well."""

from tests.security.audit import CLEAN, VULNERABLE, judge, knows_control

HOLE = {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}


def test_feed_that_knows_no_hole_was_not_asked() -> None:
    assert knows_control([{"name": "jinja2", "version": "2.4.1", "vulns": [HOLE]}])
    assert not knows_control([{"name": "jinja2", "version": "2.4.1", "vulns": []}])
    # What pip-audit answers, with exit code 0, where an index has no vulnerabilities.
    assert not knows_control([{"name": "jinja2", "skip_reason": "Dependency not found"}])


def test_holes_and_unknown_versions_are_lines() -> None:
    clean = {"name": "numpy", "version": "2.4.0", "vulns": []}
    assert judge([clean]) == (CLEAN, [])
    bad = {"name": "jinja2", "version": "2.4.1", "vulns": [HOLE]}
    assert judge([clean, bad]) == (
        VULNERABLE,
        ["jinja2 2.4.1: PYSEC-2019-217, mended in 2.10.1"],
    )
    code, lines = judge([clean, {"name": "polars", "skip_reason": "not found"}])
    assert (code, lines) == (VULNERABLE, ["not audited, unknown to the feed: polars"])
