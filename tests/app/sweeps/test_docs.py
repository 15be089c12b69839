"""docs/sweeps.md says what is so: its program runs, its tables are the service's own."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app.sweeps.metrics import OF_TASK
from tests.app.conftest import rows

PAGE = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text("utf-8")


def test_its_program_runs(socket_url: str, tmp_path: Path) -> None:
    """Nothing but a shell and curl."""
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows())))
    [program] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    environment = {**os.environ, "SERVER": socket_url}
    command = ["bash", "-euo", "pipefail", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sweep = json.loads(done.stdout)
    assert (sweep["object"], sweep["job_counts"]) == ("fine_tuning.sweep", {"total": 6, "queued": 6})


def test_its_tables_are_true(embedded: FastAPI) -> None:
    """Fields of a request, metrics by task, codes."""
    document: Any = embedded.openapi()
    fields = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("**All or nothing.**")[0], re.MULTILINE))
    assert fields == set(document["components"]["schemas"]["SweepCreate"]["properties"])
    metrics = re.findall(r"^\| (.+) \| (.+) \|$", PAGE.partition("| task |")[2].partition("\n\n")[0], re.MULTILINE)
    found = {
        task: re.findall(r"`(\w+)`", names) for tasks, names in metrics for task in re.findall(r"`([\w-]+)`", tasks)
    }
    assert found == {task: list(names) for task, names in OF_TASK.items()}
    sources = "".join(path.read_text("utf-8") for path in (Path(__file__).parents[3] / "app" / "sweeps").glob("*.py"))
    codes = re.findall(r"^\| `(\w+)` \|", PAGE.partition("| code |")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(codes) == 6 and all(f'"{code}"' in sources for code in codes if code != "invalid_state")
