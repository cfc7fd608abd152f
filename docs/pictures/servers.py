"""Pictures of Prefect's and MLflow's pages after a real run: `python docs/pictures/servers.py OUT`.

Starts what `make server` starts, on free ports and in a home of its own, sends a pipeline and a sweep to its worker,
and looks at what came of them with a headless Chromium. Three minutes on two quiet cores.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import Page, chromium
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowFilter, FlowFilterName

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
EXPERIMENT = "configs/tiny.toml"
RUN = {
    "name": "story", "model.d_model": 64, "training.steps": 1000, "training.log_every_steps": 10,
    "training.validate_every_steps": 100, "training.save_every_steps": 200,
}  # fmt: skip
GRID = {"training.learning_rate": [0.001, 0.003, 0.01], "model.num_layers": [1, 2]}
SWEEP = {"experiment": EXPERIMENT, "overrides": {"name": "rates", "training.steps": 200}, "grid": GRID}
WIDTH, HEIGHT = 1280, 860


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Servers:
    """The control plane of infra/local.py in a folder."""

    def __init__(self, home: str) -> None:
        prefect, mlflow = free_port(), free_port()
        self.prefect, self.mlflow = f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
        own = {"DDLM_HOME": home, "PREFECT_PORT": str(prefect), "MLFLOW_PORT": str(mlflow)}
        self.environment = {**os.environ, **own, "PREFECT_API_URL": f"{self.prefect}/api", "DO_NOT_TRACK": "true"}

    def do(self, *command: str) -> None:
        """Raises: SystemExit with what the command said."""
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def local(self, action: str) -> None:
        self.do(sys.executable, "infra/local.py", action)

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Run a deployment to its end; the id of its newest flow run."""
        given = json.dumps(parameters)
        self.do(str(BIN / "prefect"), "deployment", "run", f"{deployment}/{deployment}", "--params", given, "--watch")
        with SyncPrefectClient(f"{self.prefect}/api") as client:
            runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[deployment])))
        return str(max(runs, key=lambda run: str(run.created)).id)


def take(servers: Servers, page: Page, out: Path, pipeline: str) -> None:
    """Four pictures: a run and its film in Prefect, the same run and a sweep in MLflow."""
    mlflow = MlflowClient(tracking_uri=servers.mlflow)
    story, rates = (mlflow.get_experiment_by_name(name).experiment_id for name in ("story", "rates"))
    (parent,) = mlflow.search_runs([story], f"tags.`prefect.flow_run_id` = '{pipeline}'")
    trials = [run.info.run_id for run in mlflow.search_runs([rates], "tags.`ddlm.trial` != ''")]

    page.open(f"{servers.prefect}/runs/flow-run/{pipeline}", WIDTH, HEIGHT)
    page.wait_for("story at", "8 Task runs", "Completed")
    page.click("Artifacts")
    page.wait_for("story-summary", "story-scores", "story-denoising")
    page.picture(out / "prefect-run.png")

    with SyncPrefectClient(f"{servers.prefect}/api") as client:
        (film,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["story-denoising"])))
    page.open(f"{servers.prefect}/artifacts/artifact/{film.id}", WIDTH, HEIGHT)
    page.wait_for("story-denoising", "denoising.gif")
    page.picture(out / "prefect-film.png")

    page.open(f"{servers.mlflow}/#/experiments/{story}/runs/{parent.info.run_id}", WIDTH, HEIGHT)
    page.click("Close")  # its assistant, which nobody set up
    page.wait_for("evaluation/bits_per_byte", "The Prefect run")
    page.picture(out / "mlflow-run.png")

    chosen = f"runs={json.dumps(trials)}&experiments={json.dumps([rates])}"
    page.open(f"{servers.mlflow}/#/compare-runs?{chosen}", WIDTH, HEIGHT)
    page.wait_for("Parallel Coordinates")
    page.picture(out / "mlflow-sweep.png")


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        servers = Servers(home)
        try:
            servers.local("start")
            pipeline = servers.run("full-pipeline", {"experiment": EXPERIMENT, "overrides": RUN})
            servers.run("sweep", {**SWEEP, "metric": "val/bits_per_byte", "name": "rates"})
            with chromium() as page:
                take(servers, page, out, pipeline)
        finally:
            servers.local("stop")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("wanted one folder: python docs/pictures/servers.py OUT")
    main()
