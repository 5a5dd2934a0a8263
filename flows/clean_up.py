"""The flow that deletes what is old and no longer needed."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.context import Scene
from models import escape
from monitoring.retention import prune


@flow(name="clean-up", validate_parameters=False)
def clean_up() -> dict[str, int]:
    """Prune by the settings. Returns what → how much of it went."""
    scene = Scene.open()
    gone = prune(scene.engine, scene.registry, scene.settings)
    create_table_artifact(
        key="clean-up", table=escape.markdown_rows({"what": n, "gone": c} for n, c in gone.items())
    )
    get_run_logger().info("pruned: %s", gone)
    return gone
