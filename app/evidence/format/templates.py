"""Chat templates in files of their own: the folder `additional_chat_templates`, as transformers 5 writes and reads it.

`additional_chat_templates/tool_use.jinja` is the template `tool_use` of a tokenizer or processor. Loaders read nothing
else in this folder: no weights, no configuration and no code.
"""

import re
from pathlib import Path

FOLDER = "additional_chat_templates"
#: Templates in the folder at most; a tokenizer has two or three.
MAX_TEMPLATES = 64
_FILE = re.compile(rf"{FOLDER}/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,63}}\.jinja", re.ASCII)


def is_template_file(name: str) -> bool:
    """Whether this is the path of a chat template in the folder, such as `additional_chat_templates/rag.jinja`."""
    return _FILE.fullmatch(name) is not None


def templates_in(folder: Path) -> list[str]:
    """The paths of the chat templates of a model's folder; files of other names are left alone."""
    inside = folder / FOLDER
    if not inside.is_dir():
        return []
    names = sorted(f"{FOLDER}/{path.name}" for path in inside.iterdir() if path.is_file())
    return [name for name in names if is_template_file(name)][:MAX_TEMPLATES]
