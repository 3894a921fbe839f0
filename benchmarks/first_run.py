"""The newcomer's minutes: `python benchmarks/first_run.py [--quick] --json`.

Measures, each as whole processes: the demo from an empty ledger (`bucle run examples/soporte`), its peak memory, an
unchanged second run, and `bucle --help`. The peer of the second run is the first one; of the help, a bare Python start.
`--quick` stops the demo after the data stage.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from shared import ROOT, arguments, measured, report

LIMIT_S = 360.0  # clone to finished demo, after downloads
BUCLE = [str(Path(sys.executable).with_name("bucle"))]


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "soporte"
        shutil.copytree(
            ROOT / "examples" / "soporte", project, ignore=shutil.ignore_patterns(".bucle", "__pycache__", "_gen")
        )
        command = [*BUCLE, "run", str(project), "--quiet", *(["--until", "data"] if options.quick else [])]
        first = measured(command)
        second = [measured(command)["seconds"] for _ in range(3)]
    helps = [measured([*BUCLE, "--help"])["seconds"] for _ in range(7)]
    bare = [measured([sys.executable, "-c", "pass"])["seconds"] for _ in range(7)]
    overhead = median(bare)  # what measuring a process costs by itself
    report(
        "first_run",
        ours=round(first["seconds"], 1),
        peer=LIMIT_S,
        ratio=round(LIMIT_S / first["seconds"], 2),
        peer_note="no other tool runs the whole loop; the peer is the time allowed",
        unit="s",
        packages=["torch", "transformers", "trl"],
        target="demo < 360 s, < 4 GiB; unchanged second run < 5 s; bucle --help < 0.2 s",
        demo_seconds=round(first["seconds"], 1),
        demo_peak_gib=round(first["peak_gib"], 2),
        second_run_seconds=round(median(second) - overhead, 2),
        help_seconds=round(median(helps) - overhead, 3),
        bare_python_process_seconds=round(overhead, 3),
        stage="data" if options.quick else "all",
    )


if __name__ == "__main__":
    main()
