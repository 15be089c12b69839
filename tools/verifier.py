"""`make verifier`: dist/permafrost-verify.pyz, the verifier in one file for any Python that has `cryptography`.

It holds the modules that importing the verifier loads and the data files beside them, and nothing else.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = Path("dist") / "permafrost-verify.pyz"
#: zipapp's own entry point would drop main's return value, and a rejection would exit 0.
ENTRY = "import sys\nfrom app.evidence.verifier.verify import main\nsys.exit(main(sys.argv[1:]))\n"
LOADED = """
import json, sys
import app.evidence.verifier.verify
import app.evidence.format.timestamp  # which a verifier loads where there is one
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "app"]))
"""


def main() -> None:
    build(OUTPUT)
    print(
        f"{OUTPUT} ({OUTPUT.stat().st_size:,} bytes): python {OUTPUT} ATTESTATION --key PUB --result DIR [--base DIR]"
    )


def build(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for file in needed():
            target = Path(folder) / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (Path(folder) / "__main__.py").write_text(ENTRY, encoding="utf-8")
        zipapp.create_archive(folder, output, interpreter="/usr/bin/env python3", compressed=True)
    return output


def needed() -> list[Path]:
    """Paths of the verifier's modules and of their data files."""
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = [Path(file) for file in json.loads(done.stdout)]
    return [*modules, *sorted({data for module in modules for data in module.parent.glob("*.json")})]


if __name__ == "__main__":
    main()
