"""The order of the guide's pages: tutorials, guides, reference, error codes, decisions."""

from pathlib import Path
from typing import Any

TUTORIALS = (
    "first-job.md",
    "tutorials/classify-texts.md",
    "tutorials/lora-chat-model.md",
    "tutorials/prove-it.md",
    "tutorials/audit.md",
)
GUIDES = (
    "openai.md",
    "training.md",
    "freeze-policy.md",
    "evidence.md",
    "papers.md",
    "models.md",
    "sweeps.md",
    "witness.md",
    "prefix-cache.md",
    "devices.md",
    "queue.md",
    "operations.md",
    "many-machines.md",
    "keys.md",
    "login.md",
    "secrets.md",
    "exports.md",
    "webhooks.md",
    "agents.md",
)
REFERENCE = (
    "api.md",
    "architectures.md",
    "threat-model.md",
    "reliability.md",
    "performance.md",
    "stability.md",
    "releasing.md",
)


def navigation(docs: Path) -> list[Any]:
    """The generator's `nav`: sections with the pages of `docs`. A page that no list above names is a guide."""
    named = {"index.md", *TUTORIALS, *GUIDES, *REFERENCE}
    others = sorted(page.name for page in docs.glob("*.md") if page.name not in named)
    return [
        {"Start": "index.md"},
        {"Tutorials": [*TUTORIALS]},
        {"Guides": [*GUIDES, *others]},
        {"Reference": [*REFERENCE]},
        # Their own pages are reached from these two and by the search: the navigation is repeated in every page.
        {"Error codes": "errors/index.md"},
        {"Decisions": "decisions/README.md"},
    ]
