"""A dry run says what a run would take and trains nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUCLE = [sys.executable, "-m", "bucle"]


def test_a_dry_run_forecasts_and_trains_nothing(tmp_path: Path) -> None:
    project = tmp_path / "soporte"
    shutil.copytree(ROOT / "examples" / "soporte", project, ignore=shutil.ignore_patterns(".bucle", "_gen"))
    text = (project / "bucle.yaml").read_text()
    paid = 'api_key_env: ""\n    usd_per_million_in: 2.5\n    usd_per_million_out: 10'
    text = text.replace('api_key_env: ""', paid).replace("models: [nano, minilm]", "models: [nano, minilm, redactor]")
    (project / "bucle.yaml").write_text(text)
    done = subprocess.run(
        [*BUCLE, "run", str(project), "--dry-run", "--json", "-q"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    steps = {step["name"]: step for step in found["steps"]}
    assert {"pretrain nano", "lora/nano", "few-shot/redactor", "rag/nano"} <= set(steps)
    assert all(0 <= step[key][0] <= step[key][1] for step in steps.values() for key in ("tokens", "usd", "minutes"))
    assert 0.01 < steps["few-shot/redactor"]["usd"][1] < 5  # about 217 rows, seven short texts each, at 2.50 a million
    assert steps["lora/nano"]["usd"] == [0.0, 0.0]
    assert not steps["lora/nano"]["before"]
    assert found["minutes"][1] > found["minutes"][0] > 0
    work = project / ".bucle" / "exports"
    assert not work.exists()  # no model was made
