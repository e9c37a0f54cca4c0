"""Methods and students as changes to one recipe: each trains its own terms, with the same part of the gradient."""

import pytest
import yaml

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.comparison.variants import TOTAL_SHARE, variants_of, weights_by_method
from ckd_trainer.methods import METHODS, PKDArguments
from ckd_trainer.utils.errors import InputError

RECIPE = {"task_name": "rte", "alpha": 0.5, "student_init": "teacher_layers", "student_num_layers": 2}


def groups(ckd_args=None, stages=None, student_config=None, **given):
    """Returns the options of a recipe; `given` are those of other methods."""
    model_args = ModelArguments(student_init="random", student_config=student_config)
    methods = [
        kind(**{name: value for name, value in given.items() if name in kind.__dataclass_fields__}) for kind in METHODS
    ]
    return [model_args, RunArguments(stages=stages), ckd_args or CKDArguments(alpha=0.5), *methods]


def variants(*words, students=(), recipe=None, options=None):
    return variants_of(words, students, recipe or RECIPE, options or groups())


def weights(variant):
    """Returns {option: weight} of the terms that a variant trains with."""
    return {name: value for name, value in variant.recipe.items() if name.endswith("_weight") and value}


def test_controls_have_no_terms_of_their_own():
    alone, logits = variants("fine_tuned", "logits")
    assert weights(alone) == weights(logits) == {}
    assert alone.recipe["alpha"] == 0 and logits.recipe["alpha"] == 0.5
    assert alone.recipe["task_name"] == "rte" and "output_dir" not in alone.recipe


@pytest.mark.parametrize("method", weights_by_method(groups()))
def test_each_method_trains_its_own_terms_with_the_same_share(method):
    (variant,) = variants(method)
    names = weights_by_method(groups())[method]
    assert weights(variant).keys() == ({"wr_distance_weight"} if method == "ckd" else names.keys())
    assert sum(weights(variant).values()) == pytest.approx(TOTAL_SHARE, abs=1e-3)
    off = {name for options in weights_by_method(groups()).values() for name in options} - names.keys()
    assert all(variant.recipe[name] == 0 for name in off)  # whatever the recipe says


def test_weights_of_the_recipe_are_kept():
    published = CKDArguments(term_balance="none", wr_distance_weight=10.0, ltr_angle_weight=0.3)
    options = groups(published, pkd_weight=100.0)
    ckd, pkd, gram = variants("ckd", "pkd", "gram", options=options, recipe=RECIPE | {"term_balance": "none"})
    assert weights(ckd) == {"wr_distance_weight": 10.0, "ltr_angle_weight": 0.3}
    assert weights(pkd) == {"pkd_weight": 100.0}
    assert ckd.recipe["term_balance"] == pkd.recipe["term_balance"] == "none"
    assert weights(gram) == {"gram_weight": TOTAL_SHARE} and gram.recipe["term_balance"] == "gradient"


def test_other_methods_have_the_share_of_the_recipes_relations():
    two = CKDArguments(alpha=0.5, wr_distance_weight=0.4, wr_angle_weight=0.2)
    ckd, gram = variants("ckd", "gram", options=groups(two))
    assert weights(ckd) == {"wr_distance_weight": 0.4, "wr_angle_weight": 0.2}
    assert weights(gram) == {"gram_weight": pytest.approx(0.6)}


def test_ckd_has_its_defaults_where_the_recipe_turns_it_off():
    (variant,) = variants("ckd", options=groups(CKDArguments.without_relations(alpha=0.5)))
    assert weights(variant) == {"wr_distance_weight": 0.3}


def test_variants_from_a_file(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text(yaml.safe_dump({"warm": {"method": "pkd", "temperature": 6}, "deep": {"student_num_layers": 3}}))
    ckd, deep, warm = variants("ckd", str(file))
    assert weights(warm) == {"pkd_weight": TOTAL_SHARE} and warm.recipe["temperature"] == 6
    assert deep.recipe == RECIPE | {"student_num_layers": 3}
    assert [variant.method for variant in (ckd, deep, warm)] == ["ckd", "deep", "warm"]


def test_students():
    options = groups(student_config='{"a": 1}')
    found = variants("fine_tuned", "ckd", students=["2x32", "3x16"], options=options)
    assert [variant.name for variant in found] == ["2x32 fine_tuned", "2x32 ckd", "3x16 fine_tuned", "3x16 ckd"]
    assert [str(variant.place) for variant in found][::2] == ["2x32/fine_tuned", "3x16/fine_tuned"]
    assert found[2].recipe["student_num_layers"] == 3
    assert found[2].recipe["student_config"] == {"a": 1, "hidden_size": 16}


def test_students_without_other_changes():
    """On a command line, None means that the configuration stays as it is."""
    (found,) = variants("ckd", students=["2x32"], recipe=RECIPE | {"student_config": "None"})
    assert found.recipe["student_config"] == {"hidden_size": 32}


@pytest.mark.parametrize(
    ("words", "students", "message"),
    [
        (["fine_tune"], [], "'fine_tune' is not a known method: give fine_tuned, logits, ckd, pkd"),
        (["ckd", "ckd"], [], "ckd is compared twice"),
        (["ckd"], ["3"], "student '3' is not LAYERSxWIDTH: give for example 3x384"),
        (["ckd"], ["0x32"], "not LAYERSxWIDTH"),
        (["ckd"], ["2x32", "2x32"], "student 2x32 is given twice"),
    ],
)
def test_refused(words, students, message):
    with pytest.raises(InputError, match=message):
        variants(*words, students=students)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warm: 3", "warm is 3: give changed options"),
        ("a/b: {alpha: 1}", "'a/b' becomes a folder"),
        ("warm: {seed: 3}", "warm sets 'seed', which the comparison sets"),
        ("warm: {hub_token: hf_a}", "warm sets 'hub_token', which the comparison sets"),
        ("warm: {temprature: 3}", r"bad.yaml: warm: temprature is not a known option: did you mean temperature\?"),
        ("warm: {method: best}", "'best' is not a known method"),
        ("{}", "has no variants"),
        ("[ckd]", "is not a recipe"),
    ],
)
def test_refused_files(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        variants(str(tmp_path / "bad.yaml"))


def test_logits_need_an_alpha():
    with pytest.raises(InputError, match="alpha is 0 in the recipe, so logits would be the same as fine_tuned"):
        variants("logits", options=groups(CKDArguments(alpha=0)))


def test_stages_belong_to_variants(tmp_path):
    """What a stage sets wins over the method, so a method is not what its name says."""
    staged = groups(stages=[{"alpha": 0.1}, {"alpha": 0.9}])
    with pytest.raises(InputError, match="the recipe has stages, whose options would win over those of pkd"):
        variants("pkd", options=staged)
    (tmp_path / "more.yaml").write_text("two: {method: ckd, stages: [{alpha: 0.1}, {alpha: 0.9}]}")
    (two,) = variants(str(tmp_path / "more.yaml"))
    assert two.recipe["stages"] == [{"alpha": 0.1}, {"alpha": 0.9}]


def test_names_are_those_of_the_dataclasses():
    assert weights_by_method([PKDArguments(pkd_weight=2)]) == {"pkd": {"pkd_weight": 2}}
