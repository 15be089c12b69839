"""`make demo`: the main job, end to end, on the embedded default, over HTTP. Exit code 0 only if all of it held."""

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from demo import affine, encoder, outsider
from demo.screen import Check, console, summary, title, waiting
from demo.service import Service, ServiceError

HOME = Path(".permafrost") / "demo"


def main() -> int:
    began = time.monotonic()
    title()
    shutil.rmtree(HOME, ignore_errors=True)
    encoder.place_model(HOME / "models")
    try:
        checks = story()
    except ServiceError as problem:
        console.print(f"\n✗ {problem}", style="red", markup=False)
        console.print(f"  The service's log: {HOME / 'service.log'}", style="dim")
        return 1
    summary(checks)
    held = all(check.held for check in checks)
    closing(seconds=time.monotonic() - began, held=held)
    return 0 if held else 1


def story() -> list[Check]:
    with ExitStack() as stack:
        with waiting("starting `permafrost serve` (SQLite, a folder as broker, one worker)"):
            service = stack.enter_context(Service(HOME, environment=environment()))
        checks = affine.run(service)
        job, more = encoder.run(service)
        return checks + more + outsider.run(service, job, base=HOME / "models" / encoder.NAME)


def environment() -> dict[str, str]:
    return {
        "PERMAFROST_MODELS_DIR": str((HOME / "models").absolute()),
        # Threads of torch that wait by spinning take twice the time where something else runs beside them.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def closing(*, seconds: float, held: bool) -> None:
    colour, word = ("green", "All of it held") if held else ("red", "Not all of it held")
    console.print(f"\n[bold {colour}]{word}[/] [dim]in {seconds:.0f} s.[/]\n")
    command = Path(sys.executable).with_name("permafrost")
    console.print("Start the service, with the demo's jobs in it:")
    console.print(f"  [bold]PERMAFROST_DATA_DIR={HOME} {outsider.short(command)} serve[/]")
    console.print(
        "then open [bold]http://127.0.0.1:8000/[/]: the jobs and their evidence, and the API page; no network needed."
    )


if __name__ == "__main__":
    sys.exit(main())
