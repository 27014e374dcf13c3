"""The load tests' own parts: a shape, a bound or a plan that is wrong would mislead whoever sizes a cluster by it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import DEFAULT_BUNDLE, REPOSITORY

FOLDER = REPOSITORY / "stress_test"


@pytest.fixture(scope="module", autouse=True)
def _import_from_its_folder() -> Iterator[None]:
    """Do as `python stress_test/….py` does."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def run(script: str, *arguments: object, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=timeout, check=False
    )


# -- pictures and replies


def test_golden_pictures_come_with_the_classes_of_the_bundle() -> None:
    import photographs

    found = photographs.load(DEFAULT_BUNDLE)
    assert {one.name: one.labels for one in found}["silhouette.png"] == {"horse"}
    assert found[0].unlike_any_other().content != found[0].unlike_any_other().content
    assert found[0].unlike_any_other().content.startswith(found[0].content)


def test_pictures_of_a_folder_may_have_several_right_classes(tmp_path: Path) -> None:
    import photographs

    (tmp_path / "cat.jpg").write_bytes(b"jpeg")
    (tmp_path / "labels.tsv").write_text("cat.jpg\ttabby\ttiger cat\n")
    (found,) = photographs.load(tmp_path)
    assert (found.labels, found.media_type) == ({"tabby", "tiger cat"}, "image/jpeg")


def test_folder_without_classes_is_named(tmp_path: Path) -> None:
    import photographs

    with pytest.raises(ValueError, match=r"labels\.tsv"):
        photographs.load(tmp_path)


@pytest.mark.parametrize(
    "reply", [{"predictions": [{"label": "cat"}]}, {"predictions": []}, {"error": "no"}, [], {"predictions": [{}]}]
)
def test_reply_with_a_wrong_class_or_none_is_a_failure(reply: object) -> None:
    import photographs
    import requests_checked

    dog = photographs.Photograph("dog.jpg", b"", "image/jpeg", frozenset({"dog"}))
    with pytest.raises(requests_checked.Wrong):
        requests_checked.check_v1(reply, dog)


# -- shapes and objectives


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("steps", [25, 25, 75, 75, 100]),
        ("spike", [10, 10, 100, 10, 10]),
        ("ramp", [1, 20, 50, 70, 99]),
        ("soak", [1, 100, 100, 100, 100]),
    ],
)
def test_shape_has_its_users_at_its_times(name: str, expected: list[int]) -> None:
    import shapes

    function = shapes.FUNCTIONS[name]
    assert [shapes.users_at(function, at, 100, 200) for at in (0, 40, 100, 140, 198)] == expected
    assert shapes.users_at(function, 200, 100, 200) is None


def test_each_missed_bound_is_named() -> None:
    import slo

    rows = [
        slo.Measured(slo.V1_RAW, requests=100, errors=1, p95_ms=10, p99_ms=5000),
        slo.Measured(slo.PAGE, requests=100, errors=0, p95_ms=299, p99_ms=300),
    ]
    assert slo.violations(rows, slo.OBJECTIVES) == [
        "V1 raw: 1.00% errors, allowed 0.00%.",
        "V1 raw: p99 5000 ms, allowed 2000 ms.",
    ]
    assert slo.violations(rows[1:], slo.OBJECTIVES) == []


def test_run_without_a_request_has_not_held_its_objectives() -> None:
    import slo

    assert slo.violations([slo.Measured(slo.V2, 0, 0, 0, 0)], slo.OBJECTIVES)


def test_objectives_are_read_from_a_file(tmp_path: Path) -> None:
    import slo

    (tmp_path / "mine.toml").write_text('["V1 raw"]\nerror_rate = 0.01\np95_ms = 80\n')
    assert slo.load(tmp_path / "mine.toml")["V1 raw"] == slo.Objective(0.01, 80)
    (tmp_path / "wrong.toml").write_text('["V3"]\np95_ms = 80\n')
    with pytest.raises(ValueError, match="no route 'V3'"):
        slo.load(tmp_path / "wrong.toml")
    (tmp_path / "wrong.toml").write_text('["V2"]\np90 = 80\n')
    with pytest.raises(ValueError, match="p90"):
        slo.load(tmp_path / "wrong.toml")


# -- capacity


@pytest.mark.parametrize("utilisation", [0.1, 0.5, 0.9])
def test_one_core_with_random_service_is_the_textbook_queue(utilisation: float) -> None:
    """M/M/1: the response time is exponential with mean 1 / (mu - lambda)."""
    from capacity import Pod

    pod = Pod(1, mean=1.0, deviation=1.0)
    for share in (0.5, 0.95, 0.99):
        expected = -math.log(1 - share) / (1 - utilisation)
        assert pod.quantile(utilisation, share) == pytest.approx(expected, rel=0.02)


def test_fixed_service_waits_half_as_long_as_a_random_one() -> None:
    """Pollaczek and Khinchine, exact for one core."""
    from capacity import Pod

    assert Pod(1, 1.0, 0.0).mean_wait(0.8) == pytest.approx(2.0)
    assert Pod(1, 1.0, 1.0).mean_wait(0.8) == pytest.approx(4.0)


def test_chance_of_waiting_is_erlangs() -> None:
    """Two cores at half load: C(2, 1) = 1/3."""
    from capacity import Pod

    assert Pod(2, 1.0, 1.0).chance_of_waiting(1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("cores", "deviation"), [(1, 0.3), (2, 0.3), (4, 0.6)])
def test_p95_agrees_with_a_simulated_queue(cores: int, deviation: float) -> None:
    from capacity import Pod

    pod, rate, random = Pod(cores, 1.0, deviation), 0.7 * cores, np.random.default_rng(1)
    arrivals = np.cumsum(random.exponential(1 / rate, 200_000))
    services = random.gamma(1 / deviation**2, deviation**2, len(arrivals))
    free = [0.0] * cores
    taken = np.empty(len(arrivals))
    for number, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        core = free.index(min(free))
        free[core] = max(arrival, free[core]) + service
        taken[number] = free[core] - arrival
    assert pod.quantile(rate, 0.95) == pytest.approx(np.quantile(taken, 0.95), rel=0.15)


def test_service_time_falls_from_that_of_an_idle_pod_to_that_of_a_busy_one() -> None:
    from capacity import Pod

    pod = Pod(2, mean=1.0, deviation=0.0, wake=0.5)
    assert pod.service(0) == pytest.approx(1.5)
    assert pod.service(2.0) == pytest.approx(1.0), "saturated"
    halfway = pod.service(1.0)
    assert halfway == pytest.approx(1 + 0.5 * (1 - halfway / 2) ** 2)


def test_plan_has_the_least_replicas_that_hold_the_target() -> None:
    from capacity import HIGHEST_UTILISATION, Pod, plan

    pod = Pod(2, 0.01, 0.002)
    found = plan(pod, 1000, 0.05, 3)
    assert found.p99 <= 0.05
    assert found.utilisation <= HIGHEST_UTILISATION
    fewer = 1000 / (found.replicas - 1)
    assert pod.quantile(fewer, 0.99) > 0.05 or pod.utilisation(fewer) > HIGHEST_UTILISATION
    assert found.cost_per_million == pytest.approx(found.replicas * 2 * 0.04 / 3600 * 1000)


def test_queue_may_grow_by_what_a_cold_start_leaves_time_for() -> None:
    from capacity import Pod, plan

    assert plan(Pod(2, 0.01, 0.0), 100, 10, 4).queue_trigger == pytest.approx(6 * 200, rel=0.01)
    assert plan(Pod(2, 0.01, 0.0), 100, 1, 4).queue_trigger == 1


def test_target_that_no_cluster_holds_is_refused() -> None:
    finished = run("capacity.py", "--rate", 10, "--service-ms", 50, "--p99-ms", 20)
    assert finished.returncode == 1
    assert "no number of replicas" in finished.stderr


def test_rate_of_nothing_is_refused() -> None:
    finished = run("capacity.py", "--rate", 0, "--service-ms", 5, "--p99-ms", 20)
    assert finished.returncode == 2
    assert "have to be above 0" in finished.stderr


def test_saturated_pod_has_no_p95() -> None:
    from capacity import Pod

    assert Pod(1, 0.01, 0.001).quantile(100, 0.95) == math.inf


def test_plan_is_printed() -> None:
    finished = run("capacity.py", "--rate", 400, "--service-ms", 6.5, "--cores", 2, "--p99-ms", 80, "--cold-start", 4)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^replicas +2 ", finished.stdout, re.MULTILINE)
    assert "Keep 2 replicas running" in finished.stdout


def simulated_results(file: Path, spoil: float) -> None:
    """Write what `scaling.py` would have measured of perfect queues, their p95 at higher loads times ``spoil``."""
    import scaling
    from capacity import Pod

    lines = []
    for cell in scaling.matrix():
        pod = Pod(cell.server.workers, mean=0.007, deviation=0.001, overhead=0.003, wake=0.002)
        most = pod.cores / pod.mean
        rate = most * (cell.share or 1.0)
        measured = {"rate": rate, "cpu_ms": 7.0, "p95": 0.0}
        if cell.share in scaling.SHARES[1:]:
            mean = pod.overhead + pod.service(rate) + pod.mean_wait(rate)
            p95 = pod.quantile(rate, 0.95) * (1 if cell.share == scaling.LIGHT else spoil)
            measured |= {"cpu_ms": 9.0, "mean": mean * 1000, "deviation": pod.deviation * 1000, "p95": p95 * 1000}
        lines.append(json.dumps({"cell": dataclasses.asdict(cell), "measured": measured}))
    file.write_text("\n".join([json.dumps({"measured_on": "nothing"}), *lines]))


@pytest.mark.parametrize(("spoil", "status"), [(1.0, 0), (1.6, 1), (0.6, 1)])
def test_check_tells_a_model_that_holds_from_one_that_does_not(tmp_path: Path, spoil: float, status: int) -> None:
    """The model has to find service, wake and overhead in the ends of the measurement, and then what lies between."""
    simulated_results(tmp_path / "scaling.jsonl", spoil)
    finished = run("capacity.py", "--check", tmp_path / "scaling.jsonl")
    assert finished.returncode == status, finished.stdout


def test_report_is_that_of_its_results(tmp_path: Path) -> None:
    """Whoever measures again and forgets the report would publish other figures than those beside it."""
    results = FOLDER / "results" / "scaling.jsonl"
    shutil.copy(results, tmp_path)
    finished = run("scaling_report.py", "--results", tmp_path / results.name, "--report", tmp_path / "REPORT.md")
    assert finished.returncode == 0, finished.stderr
    committed = (FOLDER / "REPORT.md").read_text()
    tables = [line for line in (tmp_path / "REPORT.md").read_text().splitlines() if line.startswith("|")]
    assert len(tables) > 30
    assert [line for line in tables if line not in committed] == []


# -- chaos


def test_error_without_its_due_header_or_sentence_is_not_clean() -> None:
    from chaos_ledger import fault_of

    sentence = b'{"error": "Try again later."}'
    assert fault_of(503, {"Retry-After": "1"}, sentence, {503}) is None
    assert fault_of(503, {}, sentence, {503}) == "503 without Retry-After"
    assert "without a sentence" in (fault_of(502, {}, b"<html>", {502}) or "")
    assert (fault_of(500, {}, sentence, {503}) or "").startswith("500")
    assert fault_of(200, {}, b"", {200}) is None


def test_lost_doubled_and_stranded_jobs_are_found() -> None:
    from chaos_ledger import Jobs, Ledger, judge_jobs

    ledger = Ledger(accepted={"a": "1", "b": "2"})
    good = Jobs({"1": "succeeded", "2": "failed"}, {"1": 1, "2": 1}, 0)
    assert all(check.held for check in judge_jobs(ledger, good))
    for bad in (
        Jobs({"1": "succeeded"}, {"1": 1}, 0),
        Jobs({"1": "succeeded", "2": "running"}, {"1": 1}, 0),
        Jobs(good.statuses, {"1": 2, "2": 1}, 0),
        Jobs(good.statuses, good.ends, 1),
        Jobs({**good.statuses, "3": "queued"}, good.ends, 0),
    ):
        assert not all(check.held for check in judge_jobs(ledger, bad))
    assert not all(check.held for check in judge_jobs(Ledger(), good)), "nothing was accepted: nothing was tried"


def test_key_that_is_given_two_predictions_is_found() -> None:
    from chaos_ledger import Ledger, judge_replies

    ledger = Ledger()
    ledger.accept("key", "1")
    ledger.accept("key", "1")
    assert all(check.held for check in judge_replies(ledger, []))
    ledger.accept("key", "2")
    assert not all(check.held for check in judge_replies(ledger, []))


def test_connection_may_break_only_while_the_door_is_dead() -> None:
    from chaos_ledger import Ledger, judge_replies

    ledger = Ledger(lost=[5.0])
    assert all(check.held for check in judge_replies(ledger, [(4, 6)]))
    assert not all(check.held for check in judge_replies(ledger, [(6, 7)]))


def test_leak_is_found() -> None:
    from chaos_ledger import has_returned

    before = {"predictor": (200.0, 40)}
    assert all(check.held for check in has_returned(before, {"predictor": (210.0, 42)}))
    for after in ({"predictor": (400.0, 40)}, {"predictor": (200.0, 140)}, {}):
        assert not all(check.held for check in has_returned(before, after))


def test_system_that_loses_its_predictor_keeps_its_promises() -> None:
    options = ["--only", "kill the predictor", "--warm-up", "1", "--between", "1", "--callers", "2"]
    finished = run("chaos.py", *options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "| each accepted job has its result | yes |" in finished.stdout


# -- autoscaling


def samples(*replicas: int | None):
    from observer import Sample

    return [Sample(at=100.0 + at, replicas=count) for at, count in enumerate(replicas)]


def test_scaling_that_is_late_absent_or_does_not_end_is_found() -> None:
    from autoscaling import judge

    def held(*replicas: int | None, limits: tuple[float, float] = (5, 5)) -> list[bool]:
        """Of: began at the minimum, up, back, watched."""
        return [check.held for check in judge(samples(*replicas), 1, (101.0, 105.0), limits)]

    _, up, down, _ = judge(samples(1, 1, 1, 3, 3, 3, 2, 1, 1), 1, (101.0, 105.0), (5, 5))
    assert (up.detail, down.detail) == ("after 2 s, to 3", "after 1 s")
    assert held(1, 1, 1, 3, 3, 3, 2, 1, 1) == [True, True, True, True]
    assert held(1, 1, 1, 3, 3, 3, 2, 1, 1, limits=(1, 0.5)) == [True, False, False, True]
    assert held(1, 1, 1, 1, 1, 1) == [True, False, False, True]
    assert held(1, 1, 3, 3, 1, 3) == [True, True, False, True]
    assert held(3, 3, 3, 3, 3, 1) == [False, True, True, True]
    assert held(1, 1, 3, 3, 1, 0) == [True, True, False, True]
    assert held(1, 1, 3, None, 3, 1) == [True, True, True, True]
    assert held(1, 1, 3, *[None] * 40, 1)[-1] is False
    assert held(None, None) == [False, False, False, False]


def test_sampling_goes_on_after_a_probe_that_fails() -> None:
    from observer import Observer

    counts = iter([2, None, 3])

    def replicas() -> int:
        count = next(counts)
        if count is None:
            raise OSError("the API server does not answer")
        return count

    observer = Observer("http://127.0.0.1:9", replicas)
    assert [observer.sample().replicas for _ in range(3)] == [2, None, 3]


def test_pods_on_their_way_out_are_no_replicas() -> None:
    from pods import count_ready

    def pod(ready: str | None, leaving: str | None = None) -> SimpleNamespace:
        conditions = None if ready is None else [SimpleNamespace(type="Ready", status=ready)]
        return SimpleNamespace(
            metadata=SimpleNamespace(deletion_timestamp=leaving), status=SimpleNamespace(conditions=conditions)
        )

    assert count_ready([pod("True"), pod("False"), pod(None), pod("True", leaving="now")]) == 1


def test_latency_is_that_of_predictions_since_the_reading_before() -> None:
    from observer import buckets, quantile

    def text(fast: int, slow: int) -> str:
        name = "model_server_queue_proxy_request_seconds"
        rows = [("0.1", fast), ("0.2", fast + slow), ("+Inf", fast + slow)]
        lines = [f'{name}_bucket{{le="{bound}",route="/v1/models"}} {count}' for bound, count in rows]
        other = f'{name}_bucket{{le="+Inf",route="/v1/queue"}} 1000'
        return "\n".join([f"# TYPE {name} histogram", *lines, other, ""])

    before, after = buckets(text(100, 0)), buckets(text(100, 100))
    assert quantile(before, after, 0.95) == pytest.approx(0.195)
    assert quantile(after, after, 0.95) is None


# -- the tools themselves, for a few seconds


def test_load_on_the_whole_system_is_summed_up(tmp_path: Path) -> None:
    """Every user class, over the page, REST, gRPC and the queue, with each reply checked."""
    finished = run("stress.py", "--users", 8, "--seconds", 5, "--output", tmp_path, STRESS_PERSON_SECONDS="0.2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    summary = (tmp_path / "summary.md").read_text()
    for route in ("page", "V1 base64", "V1 raw", "V2", "gRPC", "async submit", "async result", "feedback"):
        assert re.search(rf"^\| {route} \| [0-9.]+ \| .* \| 0 \|$", summary, re.MULTILINE), summary
    assert "CPU time of the system:" in summary
    assert "Every objective was held." in summary
    assert "<html" in (tmp_path / "report.html").read_text()[:500]
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])["replicas"] == 1


def test_wrong_class_and_a_missed_bound_fail_the_run(tmp_path: Path, server) -> None:
    (tmp_path / "labels.tsv").write_text("disc.png\tbanana\n")
    (tmp_path / "disc.png").write_bytes((DEFAULT_BUNDLE / "golden" / "disc.png").read_bytes())
    weights = {f"STRESS_{name}_WEIGHT": "0" for name in ("PAGE", "V1_BASE64", "V2", "ASYNC", "FEEDBACK")}
    options = ["--url", server.url, "--pictures", tmp_path, "--users", 1, "--seconds", 4, "--output", tmp_path / "out"]
    finished = run("stress.py", *options, **weights)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "V1 raw: 100.00% errors, allowed 0.00%." in finished.stdout
    assert "disc.png is banana, not airplane" in (tmp_path / "out" / "locust_failures.csv").read_text()


def test_open_loop_sends_at_its_rate(server, tmp_path: Path) -> None:
    request = f"GET /v1/models/{server.model} HTTP/1.1\r\nHost: x\r\n\r\n"
    (tmp_path / "request").write_text(request)
    options = ["--url", server.url, "--request", tmp_path / "request", "--rate", 100, "--seconds", 2]
    result = json.loads(run("load_generator.py", *options).stdout)
    assert result["error_count"] == 0
    assert 150 <= result["requests"] <= 250


def test_scaling_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    picture = DEFAULT_BUNDLE / "golden" / "landscape.jpg"
    options = ["--model-dir", DEFAULT_BUNDLE, "--image", picture, "--results", results, "--seconds", 0.3]
    for cells in (1, 2):
        finished = run("scaling.py", *options, "--most", 1)
        assert finished.returncode == 3, finished.stdout + finished.stderr
        machine, *measured = [json.loads(line) for line in results.read_text().splitlines()]
        assert len(measured) == cells
    assert "measured_on" in machine
    assert measured[0]["measured"]["rate"] > 0


@pytest.mark.parametrize("path", sorted((FOLDER / "peers").glob("*.py")), ids=lambda path: path.stem)
def test_peer_is_short_and_says_what_it_needs(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert re.search(r"^Needs: ", text, re.MULTILINE)


@pytest.mark.parametrize(
    "script", ["stress", "scaling", "capacity", "chaos", "autoscaling", "bench_peers", "scaling_report"]
)
def test_tool_shows_an_example(script: str) -> None:
    assert "Example: " in run(f"{script}.py", "--help").stdout


def test_requests_of_each_second_are_told_apart() -> None:
    """Locust's own rate is a mean over ten seconds: a spike would look like a hill behind it."""
    from summary import per_second

    counts = [("10", "0"), ("11", "100"), ("12", "400"), ("14", "600")]
    assert per_second([{"Timestamp": at, "n": count} for at, count in counts], "n") == [100, 300, 100]


def test_report_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    import report_file

    report = tmp_path / "REPORT.md"
    report.write_text("Before.\n<!-- chaos -->\nold\n<!-- /chaos -->\nAfter.\n")
    report_file.replace(report, "chaos", "new")
    report_file.replace(report, "peers", "| a |")
    text = report.read_text()
    assert text.startswith("Before.\n<!-- chaos -->\n\nnew\n\n<!-- /chaos -->\nAfter.\n")
    assert "old" not in text
    assert "<!-- peers -->\n\n| a |\n\n<!-- /peers -->" in text
