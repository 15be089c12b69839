"""The tables of docs/witness.md, as measured with the libraries that are installed."""

import pytest

from tests.leaks import libraries


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_unmerge_exactly() -> None:
    """Six leave the base as it was; every other tuner that can be unmerged leaves some elements changed."""
    shares = libraries.unmerged()
    exact = {name for name, share in shares.items() if share == 0}
    assert exact == {"BEFT", "FROD", "HIRA", "LN_TUNING", "PEANUT", "TRAINABLE_TOKENS"}
    assert len(shares) == 33
    assert shares["LORA"] > 0.1


def test_unload_gives_the_trained_copy_of_a_saved_module() -> None:
    assert libraries.unload_gives_back() == {"adapted layer": True, "modules_to_save": False}


def test_optimizers_with_no_gradient_and_with_zeros() -> None:
    """None moves without a gradient; after real steps those with momentum coast for a while."""
    figures = libraries.optimizers()
    assert not any(without for without, _, _ in figures.values())
    assert {name for name, (_, at_zero, _) in figures.items() if at_zero} == {"ASGD"}
    at_once = {"Adadelta", "Adafactor", "Adagrad", "RMSprop", "Rprop"}
    assert {name for name, (_, _, steps) in figures.items() if steps == 0} == at_once
    assert {name for name, (_, _, steps) in figures.items() if steps == libraries.COAST} == {"ASGD"}
    assert libraries.lbfgs_moves_a_frozen_weight()


@pytest.mark.filterwarnings("ignore")
def test_options_that_do_not_freeze() -> None:
    statistics = {"1.num_batches_tracked", "1.running_mean", "1.running_var"}
    option, module, lightning = libraries.freeze_options().values()
    assert set(option) == statistics | {"0.bias", "0.weight", "1.bias", "1.weight"}
    assert set(module) == statistics
    assert set(lightning) == statistics | {"1.bias", "1.weight"}
