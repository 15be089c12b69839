"""The freeze map: every tensor once, area by parameters, colours by what became of it, and small enough."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.pages.freeze_map import WIDTH, DrawnTensor, draw, layer_of
from tests.app.jobs.jobs import claim, new_job, parameter


def tensor(name: str, elements: int = 8, **changes: Any) -> DrawnTensor:
    fields: dict[str, Any] = {"role": "frozen", "changed": False, "relative": None, "sha256": "ab" * 32}
    return DrawnTensor(name=name, shape=(elements,), dtype="F32", elements=elements, **(fields | changes))


def areas(svg: str) -> dict[str, tuple[str, float]]:
    """Class and area of each tensor that is drawn, by the first word of its title."""
    found = {}
    for layer in ElementTree.fromstring(svg).iter("g"):
        for path in layer.iter("path"):
            title = path.find("title")
            assert title is not None and title.text
            size = re.fullmatch(r"M[^h]+h([^v]+)v([^h]+)h-[^z]+", path.attrib["d"])
            assert size is not None
            kind = path.attrib.get("class", layer.attrib["class"])
            found[title.text.split(" ")[0]] = (kind, float(size[1]) * float(size[2]))
    return found


def test_area_is_by_parameters() -> None:
    """Of tensors in one layer, and of layers; names are text, not markup."""
    svg = draw(
        [tensor("m.layers.0.a<b>.w", 1000), tensor("m.layers.0.c.w", 3000), tensor("m.layers.1.a.w", 4000)], full=True
    )
    assert svg is not None
    drawn = areas(svg)
    one, three, four = (drawn[name][1] for name in ("m.layers.0.a<b>.w", "m.layers.0.c.w", "m.layers.1.a.w"))
    assert three == pytest.approx(3 * one, rel=0.02)
    assert four == pytest.approx(one + three, rel=0.02)
    assert "<b>" not in svg
    assert "ab" * 32 in svg


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """10 comes after 2; a tensor without a number is in the layer of its module."""
    svg = draw([tensor(f"m.layers.{number}.w") for number in (10, 2, 1)])
    assert svg is not None
    assert re.findall(r'<g [^>]*aria-label="([^"]+)"', svg) == ["m.layers.1", "m.layers.2", "m.layers.10"]
    assert layer_of("bert.embeddings.LayerNorm.bias") == "bert.embeddings"
    assert (layer_of("classifier.weight"), layer_of("weight")) == ("classifier", "weight")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "f"),
        ({"changed": True}, "v"),
        ({"role": "trainable"}, "t0"),
        ({"role": "trainable", "changed": True, "relative": 1e-5}, "t1"),
        ({"role": "trainable", "changed": True, "relative": 0.05}, "t4"),
        ({"role": "trainable", "changed": True, "relative": 3.0}, "t5"),
        ({"role": "trainable", "changed": True, "relative": float("inf")}, "t5"),
        ({"role": "split", "changed": True}, "s"),
        ({"role": "scheduled", "changed": True}, "s"),
        ({"role": "new", "changed": None}, "n"),
        ({"role": "buffer"}, "b"),
    ],
)
def test_a_colour_says_what_became_of_a_tensor(changes: dict[str, Any], kind: str) -> None:
    """A frozen tensor that changed is never drawn as one that did not."""
    assert tensor("a.w", **changes).kind == kind
    for full in (True, False):
        assert ("CHANGED though frozen" in tensor("a.w", **changes).text("a", full=full)) == (kind == "v")


def test_each_tensor_has_its_own_colour() -> None:
    """Also where it is not that of most of its layer."""
    svg = draw([tensor("a.0.w"), tensor("a.0.b"), tensor("a.0.broken", changed=True)])
    assert svg is not None
    assert {name: kind for name, (kind, _) in areas(svg).items()} == {"w": "f", "b": "f", "broken": "v"}


def test_nothing_is_wider_than_the_picture() -> None:
    """And what has no element is not drawn; without any tensor there is no picture."""
    svg = draw([tensor("a.w", 5), tensor("a.b", 1), tensor("a.empty", 0)])
    assert svg is not None
    ends = [float(left) + float(width) for left, width in re.findall(r'd="M(\S+) [^h"]+h([^v]+)v', svg)]
    assert max(ends) <= WIDTH * 1.01
    assert len(areas(svg)) == 2
    assert draw([]) is None and draw([tensor("a.empty", 0)]) is None


def test_a_page_of_2000_tensors_is_small(client: TestClient, embedded: FastAPI) -> None:
    """Under 300 KB with every tensor drawn."""
    db: Database = embedded.state.backends.database
    lifecycle.submit(db, new_job(id="ftjob-large"))
    lease = claim(db)
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
    parts += ["mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm", "self_attn.q_norm"]
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(200) for part in parts]
    rows = []
    for at, name in enumerate(names):
        row = parameter("ftjob-large", at, name, "trainable" if at % 3 else "frozen", bool(at % 3))
        row.shape, row.elements, row.result_sha256 = [4096, 4096], 4096 * 4096, "ab" * 32
        row.stats = {"relative_l2": 0.0123456} if at % 3 else None
        rows.append(row)
    evidence = Evidence(job_id="ftjob-large", attempt=1, verdict="verified", frozen_tensors=667, frozen_bytes=1)
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, parameters=rows))
    page = client.get("http://testserver/jobs/ftjob-large")
    assert page.text.count("<title>") == 2001
    assert len(page.content) < 260_000  # a log, curves and events come to it: 300 KB in all
