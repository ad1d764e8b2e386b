"""Whose evidence counts: single bad tenants and workers, probes, and our own faults."""

from __future__ import annotations

import pytest

from health_monitor.charts import Chart, Origin
from health_monitor.evidence import Active, Probes, SelfFault, objection

NOW = 100.0


def chart_of(*origins: Origin, h: float = 15.6) -> Chart:
    chart = Chart(0.005, 0.9, h)
    for origin in origins:
        chart.failed(origin)
    return chart


def active(tenants: int = 1, workers: int = 1) -> Active:
    seen = Active()
    for number in range(max(tenants, workers)):
        seen.seen(Origin(f"w{number % workers}", f"t{number % tenants}", "c"), NOW, failed=True)
    return seen


def origin(worker: int = 0, tenant: int = 0, credential: str = "c") -> Origin:
    return Origin(f"w{worker}", f"t{tenant}", credential)


def test_failures_of_several_workers_or_tenants_decide_by_themselves() -> None:
    by_workers = chart_of(*(origin(worker=n % 2) for n in range(4)))
    assert objection(by_workers, active(1, 2), Probes(), NOW) is None
    by_tenants = chart_of(*(origin(tenant=n % 2) for n in range(4)))
    assert objection(by_tenants, active(2, 1), Probes(), NOW) is None


def test_one_worker_and_one_tenant_need_probes() -> None:
    chart, probes = chart_of(*[origin()] * 4), Probes()
    assert objection(chart, active(), probes, NOW) is not None
    for _ in range(3):
        probes.probe(origin(), failed=True, now=NOW)
    assert objection(chart, active(), probes, NOW) is None


def test_one_tenants_credential_shuts_nobody_elses_route() -> None:
    chart, probed = chart_of(*[origin(tenant=0)] * 30, origin(tenant=1)), Probes(heard_at=NOW)
    said = objection(chart, active(2, 3), probed, NOW)
    assert said is not None
    assert "tenant t0" in said
    half = chart_of(*[origin(tenant=0)] * 2, *[origin(tenant=1)] * 2)
    assert objection(half, active(2, 3), probed, NOW) is None
    alone = chart_of(*[origin(tenant=0)] * 30)
    assert objection(alone, active(2, 3), Probes(), NOW) is not None
    failing = active(2, 3)
    assert objection(chart, failing, Probes(), NOW) is None, "nobody probes, and the other one fails too"
    failing.seen(origin(tenant=1), NOW, failed=False)
    assert objection(chart, failing, Probes(), NOW) is not None


def test_a_long_row_of_two_tenants_failures_outweighs_good_probes_and_a_short_one_does_not() -> None:
    probes = Probes()
    for _ in range(3):
        probes.probe(origin(), failed=False, now=NOW)
    failures = [origin(tenant=n % 2) for n in range(60)]
    assert objection(chart_of(*failures[:4]), active(2), probes, NOW) == "probes succeed"
    assert objection(chart_of(*failures[:38]), active(2), probes, NOW) == "probes succeed"
    assert objection(chart_of(*failures[:40]), active(2), probes, NOW) is None
    assert objection(chart_of(*failures[:40]), active(3), probes, NOW) == "probes succeed", "the third one is content"
    assert objection(chart_of(*failures[:4]), active(2), probes, NOW + 10) is None, "old probes say nothing"


def test_one_failed_probe_among_good_ones_is_chance_and_a_majority_is_not() -> None:
    chart, probes = chart_of(*(origin(tenant=n % 2) for n in range(4))), Probes()
    for failed in (False, True, False):
        probes.probe(origin(), failed=failed, now=NOW)
    assert objection(chart, active(2), probes, NOW) == "probes succeed"
    for _ in range(2):
        probes.probe(origin(), failed=True, now=NOW)
    assert not probes.confirmed
    assert objection(chart, active(2), probes, NOW) is None


def test_a_good_probe_from_before_the_first_failure_says_nothing() -> None:
    chart, probes = chart_of(*(origin(tenant=n % 2) for n in range(4))), Probes()
    probes.probe(origin(), failed=False, now=NOW - 1)
    assert objection(chart, active(2), probes, NOW, since=NOW - 1.1) == "probes succeed"
    assert objection(chart, active(2), probes, NOW, since=NOW - 0.4) is None


def test_good_probes_say_nothing_about_some_errors_and_a_single_witness_of_those_needs_twice_the_evidence() -> None:
    probes = Probes()
    probes.probe(origin(), failed=False, now=NOW)
    shared = chart_of(*(origin(worker=n % 2) for n in range(4)))
    assert objection(shared, active(1, 2), probes, NOW) == "probes succeed"
    assert objection(shared, active(1, 2), probes, NOW, total=False) is None
    assert objection(chart_of(*[origin()] * 4), active(), probes, NOW, total=False) is not None
    assert objection(chart_of(*[origin()] * 8), active(), probes, NOW, total=False) is None


def test_a_provider_that_nobody_probes_needs_twice_the_evidence() -> None:
    assert objection(chart_of(*[origin()] * 6), active(), Probes(), NOW) is not None
    assert objection(chart_of(*[origin()] * 7), active(), Probes(), NOW) is None


@pytest.mark.parametrize("other", [origin(worker=1), origin(tenant=1)])
def test_probes_of_one_worker_or_tenant_confirm_nothing_while_another_one_succeeds(other: Origin) -> None:
    probes = Probes()
    for _ in range(3):
        probes.probe(origin(), failed=True, now=NOW)
    assert bool(probes.confirmed)
    probes.call(other, failed=False)
    assert not probes.confirmed
    probes.probe(other, failed=True, now=NOW)
    assert probes.confirmed


def test_a_good_probe_of_the_same_worker_ends_the_row() -> None:
    probes = Probes()
    for failed in (True, True, False, True, True):
        probes.probe(origin(), failed=failed, now=NOW)
    assert not probes.confirmed


def fault_with(failing: int, healthy: int) -> SelfFault:
    fault = SelfFault()
    for number in range(failing):
        fault.observe(f"bad{number}", 50, NOW, failed=False)
        fault.observe(f"bad{number}", 2, NOW, failed=True)
    for number in range(healthy):
        fault.observe(f"good{number}", 9, NOW, failed=True)
        fault.observe(f"good{number}", 1, NOW, failed=False)
    return fault


@pytest.mark.parametrize(("failing", "healthy", "ours"), [(3, 2, True), (2, 1, True), (2, 2, False), (2, 0, False)])
def test_most_vendors_failing_at_once_is_our_fault(failing: int, healthy: int, ours: bool) -> None:  # noqa: FBT001
    assert (fault_with(failing, healthy).reason(NOW) is not None) is ours


def test_one_vendors_apis_are_one_vendor() -> None:
    fault = SelfFault()
    for slug in ("vendor_ads", "vendor_calendar", "vendor_drive"):
        fault.observe(slug, 5, NOW, failed=True)
    assert fault.reason(NOW) is None


def test_the_fault_passes_and_an_operator_may_end_it_before() -> None:
    fault = fault_with(3, 1)
    assert fault.reason(NOW + 4.9) is not None
    assert fault.reason(NOW + 5.1) is None
    fault = fault_with(3, 1)
    fault.clear(NOW)
    assert fault.reason(NOW + 1) is None


def test_a_failing_control_probe_is_our_fault() -> None:
    fault = SelfFault()
    fault.control_failed = True
    assert fault.reason(NOW) == "the control probe fails"


def test_chance_failures_among_other_workers_good_probes_confirm_nothing() -> None:
    probes = Probes()
    for number in range(3):
        probes.probe(origin(worker=number), failed=True, now=NOW)
        probes.probe(origin(worker=8), failed=False, now=NOW)
        probes.call(origin(worker=number, tenant=number), failed=True)
    assert (probes.failed, probes.lonely, probes.confirmed) == (3, False, False)
    probes.probe(origin(worker=0), failed=True, now=NOW)
    assert bool(probes.confirmed), "now they are the majority"
