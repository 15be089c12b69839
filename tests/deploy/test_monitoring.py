"""Alerts and dashboard ask for metrics that exist, in a language that Prometheus reads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.main import create_app
from tests.conftest import Deployment
from tools import peers

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text("utf-8"))
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    return [*(rule["expr"] for rule in rules()), *panels]


def test_every_metric_exists(deployment: Deployment) -> None:
    """By the names under which a scrape of this version has them."""
    with TestClient(create_app(deployment.settings.model_copy(update={"auth": "off"}))) as client:
        client.get("/healthz")  # so that requests were counted
        text = client.get("/metrics").text
    there = {family.name for family in text_string_to_metric_families(text)}
    there |= {f"{name}{suffix}" for name in there for suffix in ("_total", "_bucket", "_count", "_sum")}
    asked = {name for each in expressions() for name in re.findall(r"\bpermafrost_\w+", each)}
    assert len(asked) > 5 and asked - there == set()


def test_prometheus_reads_every_expression() -> None:
    """By a parser of its language that nobody here wrote."""
    code = "import json, sys, promql_parser\nfor each in json.load(sys.stdin): promql_parser.parse(each)"
    environment = os.environ | {"PYTHONPATH": str(peers.packages("promql"))}
    for given, fails in ((expressions(), False), (["sum by (x"], True)):
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(given), env=environment, capture_output=True, text=True
        )
        assert (done.returncode != 0) == fails, done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Whom it wakes reads a sentence on what happened, and one on where to look."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert all(rule["annotations"][part].endswith(".") for part in ("summary", "description"))


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    """And asks the data source that its reader chooses."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
