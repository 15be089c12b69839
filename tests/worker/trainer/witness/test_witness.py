"""The witness as its users see it: verdicts, dates, schedules, resuming, comparing."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import PolicyError
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness import Witness
from worker.trainer.witness.observe import digest


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def plan_for(model: nn.Module, policy: dict[str, Any]) -> FreezePlan:
    return resolve(Policy.from_json({"enforce": False, **policy}), tensors(model))


def steps(model: nn.Module, w: Witness, count: int, *, over: nn.Module | None = None) -> None:
    optimizer = torch.optim.AdamW((over or model).parameters(), lr=0.05, fused=True)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        w.step()


def test_the_interface_in_three_lines() -> None:
    """Names as in a policy; verified when nothing moved, and the first change of the others is dated."""
    model = net()
    with Witness(model, freeze=["0.**"]) as w:
        steps(model, w, 3, over=model[2])
    report = w.report()
    assert (report.verdict, report.violations, report.steps, report.watched) == ("verified", (), 3, 2)
    assert report.first_changed["2.weight"] == 1
    assert "1.weight" not in report.first_changed


def test_violations_carry_names_and_dates() -> None:
    """Fused AdamW over everything: each frozen name once, between steps 0 and 1."""
    model = net()
    with Witness(model, freeze=["0.**"]) as w:
        steps(model, w, 3)
    report = w.report()
    assert report.verdict == "violated"
    assert [v.to_json() for v in report.violations] == [
        {"name": name, "last_good_step": 0, "first_bad_step": 1, "operation": None} for name in ("0.bias", "0.weight")
    ]
    assert "0.weight: bytes changed between steps 0 and 1" in str(report)
    json.dumps(report.to_json())


def test_step_returns_what_it_found() -> None:
    """So that a loop can stop at once."""
    model = net()
    with Witness(model, freeze=["0.weight"], budget=1.0) as w:
        assert w.step() == []
        model[0].weight.data.add_(1)
        (found,) = w.step()
        assert w.step() == []
    assert (found.name, found.last_good_step, found.first_bad_step) == ("0.weight", 1, 2)


def test_a_hint_brings_an_immediate_look() -> None:
    """With no budget at all, a write that moves the counter in step 7 is still dated to step 7."""
    model = net()
    with Witness(model, freeze=["0.weight"], budget=0.0) as w:
        for step in range(1, 8):
            if step in {6, 7}:
                with torch.no_grad():
                    model[0].weight.mul_(1.0 if step == 6 else 2.0)
            w.step()
    (found,) = w.report().violations
    assert (found.last_good_step, found.first_bad_step) == (6, 7)


def test_a_silent_write_is_bracketed_by_the_checks() -> None:
    """Without hints and budget, the last check that saw it good and the first that did not."""
    model = net()
    with Witness(model, freeze=["0.weight"], budget=0.0) as w:
        for step in range(1, 21):
            if step == 11:
                model[0].weight.detach().numpy()[0, 0] = 9.0
            w.step()
            if step == 15:
                w.check()
    (found,) = w.report().violations
    assert (found.last_good_step, found.first_bad_step) == (8, 15)


def test_an_early_look_at_some_finds_what_moves_all() -> None:
    """Too much to look at as a whole early on: a leak everywhere is dated to the first step all the same."""
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(6)))
    with Witness(model, freeze=["**"], budget=0.0) as w:
        for layer in model:
            layer.weight.detach().numpy()[0, 0] += 1.0
        assert len(w.step()) == 6
    assert {(each.last_good_step, each.first_bad_step) for each in w.report().violations} == {(0, 1)}


def test_first_changes_of_large_tensors_are_dated_by_the_first_look_at_all() -> None:
    """What the early looks leave out is seen at the next look that the budget allows."""
    model = nn.Sequential(nn.Linear(2, 2), *(nn.Linear(1024, 1024, bias=False) for _ in range(4)))
    with Witness(model, freeze=["0.**"], budget=0.0) as w:
        for layer in list(model)[1:]:
            layer.weight.data.add_(1.0)
        w.step()
        assert set(w.report().first_changed.values()) == {1}
    assert len(w.report().first_changed) == 4


def test_the_end_is_always_checked() -> None:
    """A write after the last step is seen when the block ends."""
    model = net()
    with Witness(model, freeze=["0.weight"]) as w:
        w.step()
        model[0].weight.detach().numpy()[0, 0] = 9.0
    (found,) = w.report().violations
    assert (found.last_good_step, found.first_bad_step) == (1, 1)


def test_a_run_that_raises_is_incomplete() -> None:
    """Nothing is claimed of a run that did not get to its end; what was found stays found."""
    model = net()
    w = Witness(model, freeze=["0.weight"])
    with pytest.raises(KeyboardInterrupt), w:
        w.step()
        raise KeyboardInterrupt
    report = w.report()
    assert (report.verdict, report.reason) == ("incomplete", "the run ended in KeyboardInterrupt after step 1")
    assert Witness(model, freeze=["0.weight"]).report().verdict == "incomplete"


def test_steps_outside_the_block_are_refused() -> None:
    """A step that nobody watched must not pass for one that was."""
    w = Witness(net(), freeze=["0.weight"])
    with pytest.raises(RuntimeError, match="not begun"):
        w.step()


def test_a_name_that_matches_nothing_is_an_error() -> None:
    """With the nearest real names, as in a policy."""
    with pytest.raises(PolicyError, match=r"'0\.weight'"):
        Witness(net(), freeze=["0.weigth"])
    with pytest.raises(TypeError, match="either"):
        Witness(net())


def test_buffers_of_frozen_modules_are_watched() -> None:
    """A frozen BatchNorm's statistics belong to it."""
    model = net()
    with Witness(model, freeze=["1.**"]) as w, torch.no_grad():
        model(torch.randn(5, 4))
        w.step()
    assert {v.name for v in w.report().violations} == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_wrappers_keep_the_models_own_names() -> None:
    """A compiled model is watched under the names of the module inside."""
    model = net()
    with Witness(torch.compile(model, backend="eager"), freeze=["0.**"]) as w:  # type: ignore[arg-type]
        steps(model, w, 1, over=model[2])
    assert w.report().verdict == "verified"


def test_follow_counts_steps_by_itself() -> None:
    """Of one optimizer, or of any that holds one of the model's parameters; no longer after the block."""
    model, other = net(), nn.Linear(1, 1)
    mine = torch.optim.SGD(model[2].parameters(), lr=0.1)
    foreign = torch.optim.SGD(other.parameters(), lr=0.1)
    for optimizer in (mine, None):
        with Witness(model, freeze=["0.**"]).follow(optimizer) as w:
            mine.step()
            foreign.step()
            mine.step()
        mine.step()
        assert w.report().steps == 2


def test_a_schedule_is_watched_in_its_intervals() -> None:
    """Frozen in (2, 4]: moving before and after is no violation, and both ends have their SHA-256."""
    model = net()
    when = [{"from_step": 2, "to_step": 4}]
    plan = plan_for(model, {"rules": [{"action": "freeze", "select": {"name": "0.weight"}, "when": when}]})
    seen = [digest(model.get_parameter("0.weight"))]
    with Witness(model, plan=plan, budget=1.0) as w:
        for step in range(1, 7):
            if step not in {3, 4}:
                model[0].weight.data.add_(1)
            seen.append(digest(model.get_parameter("0.weight")))
            w.step()
    report = w.report()
    assert report.verdict == "verified"
    (interval,) = report.intervals["0.weight"]
    assert (interval.from_step, interval.to_step, interval.before, interval.after) == (2, 4, seen[2], seen[4])
    assert report.first_changed["0.weight"] == 1


@pytest.mark.parametrize("stop", [None, 5, 9], ids=["to the end", "to the last step", "beyond the last step"])
def test_an_interval_that_is_open_at_the_end_is_closed(stop: int | None) -> None:
    """A freeze that lasts as long as the run has both its digests; one that never began has none."""
    model = net()
    when = [{"from_step": 2, "to_step": stop}, *([{"from_step": 20, "to_step": None}] if stop else [])]
    plan = plan_for(model, {"rules": [{"action": "freeze", "select": {"name": "0.weight"}, "when": when}]})
    with Witness(model, plan=plan, budget=1.0) as w:
        for step in range(1, 6):
            if step <= 2:
                model[0].weight.data.add_(1)
            w.step()
    (interval,) = w.report().intervals["0.weight"]
    kept = digest(model.get_parameter("0.weight"))
    assert (interval.from_step, interval.to_step, interval.before, interval.after) == (2, stop, kept, kept)


@pytest.mark.parametrize("bad", [3, 4])
def test_a_write_within_an_interval_is_a_violation(bad: int) -> None:
    """Also in the interval's last step; and the next interval begins afresh."""
    model = net()
    when = [{"from_step": 2, "to_step": 4}, {"from_step": 5, "to_step": None}]
    plan = plan_for(model, {"rules": [{"action": "freeze", "select": {"name": "0.weight"}, "when": when}]})
    with Witness(model, plan=plan, budget=0.0) as w:
        for step in range(1, 9):
            if step in {5, bad}:
                model[0].weight.detach().numpy()[:] += 1
            w.step()
    (found,) = w.report().violations
    assert (found.first_bad_step, found.last_good_step) == (4, 2)
    assert [(i.from_step, i.to_step) for i in w.report().intervals["0.weight"]] == [(2, 4), (5, None)]


def test_rows_are_watched_by_their_slices() -> None:
    """Trained rows may move, the frozen ones not."""
    model = nn.Embedding(6, 2)
    rule = {"action": "freeze", "select": {"name": "weight", "rows": [[0, 2], [4, 6]]}}
    plan = plan_for(model, {"rules": [rule]})
    with Witness(model, plan=plan, budget=1.0) as w:
        model.weight.data[2:4] += 1
        assert w.step() == []
        model.weight.data[5] += 1
        (found,) = w.step()
    assert found.name == "weight"


def test_a_resumed_witness_remembers_the_beginning() -> None:
    """Its state goes through JSON, counts on, and compares with the bytes before the very first step."""
    model = net()
    with Witness(model, freeze=["0.**"]) as w:
        steps(model, w, 2, over=model[2])
        state = json.loads(json.dumps(w.state_dict()))
    resumed = Witness(model, freeze=["0.**"])
    resumed.load_state_dict(state)
    with resumed:
        steps(model, resumed, 2, over=model[2])
    report = resumed.report()
    assert (report.verdict, report.steps, report.first_step) == ("verified", 4, 0)
    assert report.checks > w.report().checks

    model[0].weight.data.add_(1)
    tampered = Witness(model, freeze=["0.**"])
    tampered.load_state_dict(state)
    with tampered:
        (found,) = tampered.violations
    assert (found.name, found.last_good_step, found.first_bad_step) == ("0.weight", 2, 2)


def test_compare_names_what_a_file_lacks_or_changed() -> None:
    """A state_dict, live or read back, against the frozen bytes."""
    model = net()
    with Witness(model, freeze=["0.**"]) as w:
        assert w.compare(model.state_dict()) == []
        saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        saved["0.weight"] = saved["0.weight"].double()
        del saved["0.bias"]
        assert {v.name: v.what for v in w.compare(saved)} == {
            "0.weight": "dtype changed from torch.float32 to torch.float64",
            "0.bias": "gone",
        }
    assert w.report().verdict == "verified"


def test_an_untied_alias_is_watched_under_its_own_name() -> None:
    """When a tie is broken during the run, the name that was given another tensor is the one reported."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    with Witness(model, freeze=["a.weight", "b.weight"], budget=1.0) as w:
        w.step()
        model["b"].weight = nn.Parameter(model["a"].weight.detach().clone())
        assert w.step() == []
        model["b"].weight.data.add_(1)
        (found,) = w.step()
    assert found.name == "b.weight"


def test_a_replaced_module_is_seen() -> None:
    """Names lead to the tensors that the model has now, not to those that it had."""
    model = net()
    with Witness(model, freeze=["0.weight"], budget=1.0) as w:
        model[0] = nn.Linear(4, 4)
        (found,) = w.step()
    assert found.name == "0.weight"


def test_a_plan_of_another_model_is_refused() -> None:
    """Rather than watching what is left of it."""
    with (
        pytest.raises(LookupError, match=r"'0\.weight'|'0\.bias'"),
        Witness(nn.Linear(1, 1), plan=plan_for(net(), {"freeze": ["0.**"]})),
    ):
        pass


def test_where_nothing_is_left_to_see_nothing_is_looked_at() -> None:
    """All trains and all has moved: further steps cost no look, and the report still covers the run to its end."""
    model = nn.Linear(4, 2)
    with Witness(model, plan=plan_for(model, {"rules": []}), budget=1.0) as w:
        steps(model, w, 2)
        looks = w.checks
        steps(model, w, 20)
        assert w.checks == looks
    report = w.report()
    assert (report.verdict, report.last_step) == ("verified", 22)
    assert set(report.first_changed) == {"weight", "bias"}


def test_a_freeze_that_begins_later_is_watched_from_then_on() -> None:
    """Also where nothing was left to see before it: a write behind its begin is found."""
    model = nn.Linear(4, 2)
    rule = {"action": "freeze", "select": {"name": "weight"}, "when": [{"from_step": 5, "to_step": None}]}
    plan = plan_for(model, {"rules": [rule]})
    with Witness(model, plan=plan, budget=1.0) as w:
        steps(model, w, 8)
    assert [(v.name, v.last_good_step, v.first_bad_step) for v in w.report().violations] == [("weight", 5, 6)]


def test_one_pattern_is_not_read_letter_by_letter() -> None:
    """`freeze="**"` watches everything; as letters it was `*` twice, which matches names of one segment only."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model.scale = nn.Parameter(torch.ones(1))
    with Witness(model, freeze="**") as w:
        with torch.no_grad():
            model[1].weight.add_(1.0)
        w.step()
    assert w.report().watched == 5
    assert [v.name for v in w.report().violations] == ["1.weight"]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse CS")
def test_sparse_buffers_are_watched(layout: torch.layout) -> None:
    """Their indices and values are bytes like any others."""
    model = nn.Linear(3, 3)
    model.register_buffer("graph", torch.eye(3).to_sparse(layout=layout))
    with Witness(model, freeze=["**"], budget=1.0) as w:
        w.step()
        assert not w.violations
        with torch.no_grad():
            values = model.graph._values() if layout is torch.sparse_coo else model.graph.values()
            values[1] = 2.0
        w.step()
    (violation,) = w.report().violations
    assert (violation.name, violation.last_good_step, violation.first_bad_step) == ("graph", 1, 2)


def test_a_tensor_without_readable_bytes_is_refused_by_name() -> None:
    """On the meta device, or in a layout whose bytes torch does not show."""
    with pytest.raises(TypeError, match="cannot watch 'weight': it is on the meta device"):
        Witness(nn.Linear(2, 2, device="meta"), freeze=["weight"]).start()
    model = nn.Linear(2, 2)
    model.register_buffer("opaque", torch.ones(2, 2).to_mkldnn())
    with pytest.raises(TypeError, match=r"cannot watch 'opaque': its layout is torch._mkldnn"):
        Witness(model, freeze=["opaque"]).start()
