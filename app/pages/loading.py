"""How a model is fetched, loaded and served: commands and code for its kind."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.specs.models import TorchSpec

_CLASSES: Final = {
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "text-ranking": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "preference": "AutoModelForCausalLM",
    "contrastive-image-text": "AutoModelForZeroShotImageClassification",
    "image-classification": "AutoModelForImageClassification",
}
_READERS: Final = {"image-classification": "AutoImageProcessor", "contrastive-image-text": "AutoProcessor"}
#: Tasks whose results servers of language models load.
_SERVED: Final = ("causal-lm", "preference")


@dataclass(frozen=True, slots=True)
class Use:
    """What a reader copies. `serve` is empty where no server of language models takes such a model."""

    fetch: str
    load: str
    serve: str


def task_of(session: Session, model: Model) -> str | None:
    """The task of the model's spec, or else that of the job that left it, which found it from its file."""
    spec = model.model_spec
    if spec.task is not None or model.job_id is None:
        return spec.task
    job = session.get(Job, model.job_id)
    return job.task if job is not None else None


def use_of(model: Model, *, task: str | None) -> Use:
    """Commands and code for a model whose files lie in `./model`, and for an adapter its base's in `./base`."""
    spec = model.model_spec
    if isinstance(spec, TorchSpec):
        kwargs = ", ".join(f"{name}={value!r}" for name, value in (spec.kwargs or {}).items())
        load = (
            "from safetensors.torch import load_file\n\n"
            f"tensors = load_file('model/model.safetensors')  # of {spec.architecture}({kwargs})"
        )
        return Use(_fetch(model.id, "model"), load, "")

    adapter = spec.adapter is not None
    fetch = _fetch(model.id, "model")
    if adapter and model.base_id:
        fetch = f"{_fetch(model.base_id, 'base')}\n{fetch}"
    serve = ""
    if task in _SERVED:
        serve = _SERVE_ADAPTER if adapter else _SERVE
    return Use(fetch, _transformers(task, adapter=adapter), serve)


_SERVE: Final = """vllm serve ./model --served-model-name mine
python -m sglang.launch_server --model-path ./model"""
_SERVE_ADAPTER: Final = """vllm serve ./base --enable-lora --lora-modules mine=./model
python -m sglang.launch_server --model-path ./base --lora-paths mine=./model"""


def _transformers(task: str | None, *, adapter: bool) -> str:
    if task == "pairs" and not adapter:
        return "from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer('model')"
    if task == "text-ranking" and not adapter:
        return "from sentence_transformers import CrossEncoder\n\nmodel = CrossEncoder('model')"
    name = _CLASSES.get(task or "", "AutoModel")
    reader = _READERS.get(task or "", "AutoTokenizer")
    imports = f"from transformers import {', '.join(sorted((name, reader)))}\n\n"
    if not adapter:
        return f"{imports}model = {name}.from_pretrained('model')\nreader = {reader}.from_pretrained('model')"
    return (
        f"from peft import PeftModel\n{imports}"
        f"model = PeftModel.from_pretrained({name}.from_pretrained('base'), 'model')\n"
        f"reader = {reader}.from_pretrained('base')"
    )


def _fetch(model_id: str, folder: str) -> str:
    return f"permafrost models get {model_id} ./{folder}"
