import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_them() -> None:
    dashboard = json.loads((ROOT / "infra" / "dashboards" / "mixllm.json").read_text())
    queries = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    asked = {name.removesuffix("_bucket") for name in re.findall(r"mixllm_\w+", queries)}
    made = set(re.findall(r'"(mixllm_\w+)"', (ROOT / "serving" / "metrics.py").read_text()))
    assert asked <= made
    told_elsewhere = {"mixllm_predicted_cost_usd_total", "mixllm_release_loads_total"}
    assert made - asked == told_elsewhere
