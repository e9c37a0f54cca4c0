"""What the name of a metric says: of which less is better, which are scores, and which sub-network they are of."""

import pytest

from ckd_trainer.metrics.names import is_score, less_is_better, without_subnetwork
from ckd_trainer.models.subnetworks import SubNetwork


@pytest.mark.parametrize("name", ["loss", "rmse", "perplexity", "loss_task"])
@pytest.mark.parametrize("pattern", ["{}", "eval_{}", "mean_{}", "{}_w0.5_d1", "eval_mismatched_{}_w0.5_d0.5"])
def test_less_of_a_loss_is_better(name, pattern):
    assert less_is_better(pattern.format(name))


@pytest.mark.parametrize(
    "name", ["accuracy", "f1", "best_f1_thresh", "matthews_correlation", "pearson", "exact", "weight_loss_f1_tuned"]
)
@pytest.mark.parametrize("pattern", ["eval_{}", "eval_mean_{}", "eval_{}_w0.5_d1", "eval_mismatched_{}"])
def test_more_of_a_score_is_better(name, pattern):
    assert not less_is_better(pattern.format(name))
    assert is_score(pattern.format(name))


@pytest.mark.parametrize("name", ["runtime", "samples", "samples_per_second", "model_preparation_time", "PER_number"])
@pytest.mark.parametrize("pattern", ["eval_{}", "eval_mismatched_{}", "eval_mean_{}", "eval_{}_w0.5_d1"])
def test_timings_and_counts_are_not_scores(name, pattern):
    assert not is_score(pattern.format(name))


@pytest.mark.parametrize("part", [SubNetwork(0.5, 0.75), SubNetwork(1e-9), SubNetwork()], ids=str)
def test_a_name_without_its_sub_network(part):
    assert without_subnetwork(f"loss_wr_angle_{part}") == "loss_wr_angle"
    assert without_subnetwork("loss_wr_angle") == "loss_wr_angle"
