"""Every recipe is one that a user can launch: its first line, its keys, its numbers, and the cluster files."""

import dataclasses
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from helpers.files import PROJECT
from transformers import AutoModelForSequenceClassification, BertConfig, TrainingArguments

from ckd_trainer.arguments import CKDArguments, LanguageModelCKDArguments, ModelArguments, RunArguments
from ckd_trainer.commands.options import kind_of
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.data.text_arguments import TextArguments
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.methods import METHODS, Pair, RankingArguments
from ckd_trainer.metrics import ranking
from ckd_trainer.metrics.multi_label import SCORES
from ckd_trainer.models.subnetworks import DynamicArguments, check_dynamic
from ckd_trainer.runs.recipe import parse_recipe, value_of
from ckd_trainer.runs.stages import stages_of, terms_of_stages
from ckd_trainer.tasks.masked_lm import MaskedLanguageModeling
from ckd_trainer.tasks.texts import text_task

# Terms of the recipes in recipes/methods, beside those for labels and logits.
METHOD_TERMS = {
    "distilbert": {"distilbert_cosine"},
    "attribution": {"attribution"},
    "gram": {"gram"},
    "minilm": {"minilm_attention", "minilm_value"},
    "minilmv2": {"minilmv2"},
    "pkd": {"pkd"},
    "tinybert": {"tinybert_embedding", "tinybert_hidden", "tinybert_attention"},
}
FILES = sorted(path.relative_to(PROJECT) for path in (PROJECT / "recipes").rglob("*.yaml"))
CLUSTERS = [path for path in FILES if path.parent.name == "accelerate"]
RANGES = PROJECT / "recipes" / "search.yaml"  # its test is in tests/comparison/test_search.py
STARTS = PROJECT / "recipes" / "quickstart_mlm_starts.yaml"  # variants for a comparison
RECIPES = [path for path in FILES if path not in CLUSTERS and PROJECT / path not in (RANGES, STARTS)]
COMMON = (ModelArguments, RunArguments, TrainingArguments)
STUDENT_SCRIPTS = {
    GlueArguments: "run_glue_ckd.py",
    NerArguments: "run_ner_ckd.py",
    SquadArguments: "run_squad_ckd.py",
    TextArguments: "run_mlm_ckd.py",
}

# Park et al. 2021, 6-layer student: alpha, temperature, weight of distances, of angles, learning rate, epochs
PUBLISHED = {
    "cola": (0.7, 3, 1, 10, 5e-5, 4),
    "sst2": (0.9, 4, 100, 1000, 4e-5, 4),
    "rte": (0.9, 3, 1, 10, 5e-5, 6),
    "qnli": (0.9, 3, 10, 1, 4e-5, 4),
    "mrpc": (0.7, 4, 1, 1, 3e-5, 4),
    "stsb": (0.9, 1, 0.1, 0.1, 5e-5, 4),
    "mnli": (0.7, 4, 100, 1, 4e-5, 4),
    "qqp": (0.9, 2, 10, 10, 5e-5, 4),
}


def launch_command(path):
    first = (PROJECT / path).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# accelerate launch ")
    return shlex.split(first.removeprefix("# "))


def parse(path):
    """Returns the options of a recipe, parsed for the script that its first line launches, in one namespace each."""
    script, recipe = launch_command(path)[2], [str(PROJECT / path)]
    _, data, _ = kind_of({"task_name": value_of("task_name", recipe)})
    data, loss = (TextArguments, LanguageModelCKDArguments) if script == "run_mlm_ckd.py" else (data, CKDArguments)
    kinds = (*COMMON, data) if script == "run_teacher.py" else (*COMMON, data, loss, *METHODS, DynamicArguments)
    assert script in ("run_teacher.py", STUDENT_SCRIPTS[data])
    return {type(part): part for part in parse_recipe(kinds, recipe)}


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name.startswith("mlm_ckd")], ids=str)
def test_language_model_recipes(path):
    options = parse(path)
    loss, data, args = options[LanguageModelCKDArguments], options[TextArguments], options[TrainingArguments]
    groups = list(options.values())
    MaskedLanguageModeling(data, args).use_stages(stages_of(groups))  # raises if options contradict each other
    defaults = dataclasses.asdict(LanguageModelCKDArguments())
    relations = [name for name in defaults if "relation" in name or name.startswith(("wr_", "ltr_"))]
    assert all(getattr(loss, name) == defaults[name] for name in relations)
    assert bool(data.mlm_probability) == loss.labels_and_logits == ("domain" in path.stem)
    assert args.output_dir == f"runs/{path.stem}" and args.do_train and args.do_eval


def test_all_recipes_are_found():
    glue = {f"glue_{task}_{role}.yaml" for task in GLUE_TASKS for role in ("teacher", "ckd")}
    quickstart = {
        f"quickstart_{task}{role}.yaml" for task in ("", "qa_", "mlm_", "ner_") for role in ("teacher", "ckd")
    }
    assert len(glue) == 18
    squad = {f"{task}_{role}.yaml" for task in SQUAD_TASKS for role in ("teacher", "ckd")}
    best = {f"best/{task}.yaml" for task in (*GLUE_TASKS.keys() - {"wnli"}, "squad")}
    names = {path.relative_to("recipes").as_posix() for path in RECIPES}
    methods = {f"methods/{method}.yaml" for method in METHOD_TERMS}
    quickstart.add("quickstart_mlm_task.yaml")
    quickstart.add("quickstart_dynamic.yaml")
    methods |= {"dynamic/sst2.yaml", "dynamic/dynabert.yaml"}
    mlm = {"mlm_ckd.yaml", "mlm_ckd_small.yaml", "mlm_ckd_domain.yaml"}
    ner = {f"ner_{task}_{role}.yaml" for task in ("conll2003", "wnut17") for role in ("teacher", "ckd")}
    ner.add("ner_personal_ckd.yaml")
    glue.add("glue_mnli_roberta.yaml")
    ner |= {"reranker_ckd.yaml", "texts_ckd.yaml", "texts_relations_first.yaml"}
    goemotions = {f"goemotions_{role}.yaml" for role in ("teacher", "ckd")}
    assert names == glue | squad | ner | goemotions | mlm | quickstart | best | methods
    gpus = {"one_gpu", "multi_gpu", "multi_node", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"}
    assert {path.stem for path in CLUSTERS} == gpus | {"cpu", "cpu_processes"}


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_first_line_launches_the_recipe_itself(path):
    *launcher, script, recipe = launch_command(path)
    assert launcher == ["accelerate", "launch"]
    assert (PROJECT / script).is_file()
    assert recipe == path.as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_every_option_is_known_and_says_where_its_number_comes_from(path):
    options = parse(path)
    lines = (PROJECT / path).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("#") and line.strip("# ")]) > 1
    data = next(options[kind] for kind in STUDENT_SCRIPTS if kind in options)
    assert getattr(data, "task_name", None) or data.train_file or data.dataset_name or data.sources
    assert options[TrainingArguments].output_dir.startswith("runs/")


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name.startswith("glue_")], ids=str)
def test_glue_recipes_share_one_way_of_training(path):
    _, task, role = path.stem.split("_")
    options = parse(path)
    args, data = options[TrainingArguments], options[GlueArguments]
    assert data.task_name == task
    assert data.max_seq_length == 128
    assert args.output_dir == f"runs/glue_{task}_{role}"
    assert args.do_train and args.do_eval and not args.bf16
    assert args.per_device_train_batch_size == 32
    assert args.train_sampling_strategy == "group_by_length"
    assert args.lr_scheduler_type == "linear"
    assert args.load_best_model_at_end and args.greater_is_better
    assert args.eval_strategy == args.save_strategy == "epoch"
    assert args.metric_for_best_model == GLUE_TASKS[task].best_metric
    assert args.seed == 42


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "best"], ids=str)
def test_best_recipes_have_the_loss_of_the_defaults(path):
    """And train as the published ones do, so that the two can be compared."""
    task = path.stem
    ours, published = parse(path), parse(Path(f"recipes/{task if task == 'squad' else f'glue_{task}'}_ckd.yaml"))
    loss, defaults = dataclasses.asdict(ours[CKDArguments]), dataclasses.asdict(CKDArguments())
    if task == "stsb":  # a score is no distribution to soften
        defaults["temperature"] = 1.0
    assert loss == defaults
    assert ours[ModelArguments].student_layers == ("first_and_last" if task == "stsb" else "first")
    args, theirs = (kind[TrainingArguments].to_dict() for kind in (ours, published))
    changed = {name for name in args if args[name] != theirs[name]}
    assert (
        changed <= {"output_dir", "logging_dir", "run_name", "hub_model_id"}
        and args["output_dir"] == f"runs/best_{task}"
    )


@pytest.mark.parametrize("method", METHOD_TERMS)
def test_recipes_of_methods_differ_from_the_best_in_their_loss_alone(method):
    """And in published settings of training: PKD's learning rate, and AD-KD's epochs and batch size."""
    ours, best = parse(Path(f"recipes/methods/{method}.yaml")), parse(Path("recipes/best/mrpc.yaml"))
    assert {term for kind in METHODS for term in ours[kind].weights} == METHOD_TERMS[method]
    assert set(ours[CKDArguments].weights) <= {"logits"}
    assert ours[ModelArguments] == best[ModelArguments] and ours[GlueArguments] == best[GlueArguments]
    args, theirs = (kind[TrainingArguments].to_dict() for kind in (ours, best))
    changed = {name for name in args if args[name] != theirs[name]} - {"output_dir", "logging_dir", "run_name"}
    published = {"pkd": {"learning_rate"}, "attribution": {"num_train_epochs", "per_device_train_batch_size"}}
    assert changed == published.get(method, set())


def test_tinybert_has_the_two_published_stages():
    first, second = stages_of(list(parse(Path("recipes/methods/tinybert.yaml")).values()))
    terms = [{term for arguments in (s.ckd_args, *s.methods) for term in arguments.weights} for s in (first, second)]
    assert terms == [METHOD_TERMS["tinybert"], {"logits"}]
    assert not first.ckd_args.labels_and_logits and second.ckd_args.alpha == second.ckd_args.temperature == 1
    options = ("num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "load_best_model_at_end")
    values = [tuple(getattr(stage.args, name) for name in options) for stage in (first, second)]
    assert values == [(20, 5e-5, "constant", 0, False), (3, 3e-5, "linear", 0.1, True)]


@pytest.mark.parametrize("name", ["sst2", "dynabert"])
def test_dynamic_recipes_have_the_published_stages(name):
    stages = stages_of(list(parse(Path(f"recipes/dynamic/{name}.yaml")).values()))
    widths = "1.0,0.75,0.5,0.25"
    sizes = [(stage.dynamic_args.student_widths, stage.dynamic_args.student_depths) for stage in stages]
    assert sizes == [(widths, "1.0"), (widths, "1.0,0.75,0.5"), (widths, "1.0,0.75,0.5")]
    assert [stage.distills for stage in stages] == [True, True, False]
    assert all((stage.args.learning_rate, stage.args.num_train_epochs) == (2e-5, 3) for stage in stages)
    bert = BertConfig()
    check_dynamic(bert, stages[-1].dynamic_args.subnetworks)
    terms_of_stages(stages, Pair(bert, bert, head_of_auto_class(AutoModelForSequenceClassification, bert)))
    if name == "dynabert":
        weights = [stage.methods[2].weights for stage in stages]
        assert weights == [
            {"tinybert_embedding": 0.1, "tinybert_hidden": 0.1},
            {"tinybert_embedding": 1.0, "tinybert_hidden": 1.0},
            {},
        ]
    else:
        assert stages[0].ckd_args.weights == CKDArguments().weights | {"logits": 1.0}


@pytest.mark.parametrize("task", sorted(GLUE_TASKS))
def test_teacher_recipe(task):
    options = parse(Path(f"recipes/glue_{task}_teacher.yaml"))
    args = options[TrainingArguments]
    assert options[ModelArguments].model_name_or_path == "google-bert/bert-base-uncased"
    assert (args.learning_rate, args.warmup_steps, args.weight_decay) == (2e-5, 0.1, 0.01)
    assert args.num_train_epochs == (5 if task in ("mrpc", "wnli") else 3)


@pytest.mark.parametrize("task", sorted(GLUE_TASKS))
def test_ckd_recipe_holds_the_published_settings(task):
    path = Path(f"recipes/glue_{task}_ckd.yaml")
    options = parse(path)
    model, ckd, args = options[ModelArguments], options[CKDArguments], options[TrainingArguments]
    alpha, temperature, distance, angle, learning_rate, epochs = PUBLISHED.get(task, PUBLISHED["rte"])
    assert (ckd.alpha, ckd.temperature) == (alpha, temperature)
    assert ckd.wr_distance_weight == ckd.ltr_distance_weight == distance
    assert ckd.wr_angle_weight == ckd.ltr_angle_weight == angle
    assert (args.learning_rate, args.num_train_epochs) == (learning_rate, epochs)
    assert (args.warmup_steps, args.weight_decay) == (0, 0)
    assert ckd.window_size == 21
    assert ckd.wr_layer_mapping == ckd.ltr_layer_mapping == "emb+skip"
    assert (model.student_init, model.student_num_layers) == ("teacher_layers", 6)
    teacher = parse(Path(f"recipes/glue_{task}_teacher.yaml"))[TrainingArguments]
    assert model.teacher_model_name_or_path == teacher.output_dir
    text = (PROJECT / path).read_text(encoding="utf-8")
    assert ("Nothing is published" in text) == (task not in PUBLISHED)


@pytest.mark.parametrize("task", sorted(SQUAD_TASKS))
def test_squad_recipes(task):
    teacher, student = (parse(Path(f"recipes/{task}_{role}.yaml")) for role in ("teacher", "ckd"))
    for role, options in (("teacher", teacher), ("ckd", student)):
        args, data = options[TrainingArguments], options[SquadArguments]
        assert (data.task_name, data.max_seq_length, data.doc_stride) == (task, 384, 128)
        assert args.output_dir == f"runs/{task}_{role}"
        assert args.do_train and args.do_eval and args.train_sampling_strategy == "group_by_length"
        assert args.load_best_model_at_end and args.metric_for_best_model == "f1" and args.greater_is_better
    assert student[ModelArguments].teacher_model_name_or_path == teacher[TrainingArguments].output_dir
    assert (student[ModelArguments].student_init, student[ModelArguments].student_num_layers) == ("teacher_layers", 6)


@pytest.mark.parametrize("task", sorted(SQUAD_TASKS))
def test_squad_weights_are_those_of_qnli_per_item(task):
    """The lengths are those that the recipe names; 7 layers are matched."""
    ckd, qnli = (parse(Path(f"recipes/{name}_ckd.yaml"))[CKDArguments] for name in (task, "glue_qnli"))
    assert (ckd.relation_normalization, qnli.relation_normalization) == ("items", "pairs")
    assert ckd.wr_distance_weight == pytest.approx(qnli.wr_distance_weight / 55.5, rel=0.01)
    assert ckd.ltr_distance_weight == pytest.approx(qnli.ltr_distance_weight / 7, rel=0.03)
    assert (ckd.wr_angle_weight, ckd.ltr_angle_weight) == (qnli.wr_angle_weight, qnli.ltr_angle_weight)
    assert (ckd.alpha, ckd.temperature) == (qnli.alpha, qnli.temperature)


@pytest.mark.parametrize("name", ["conll2003", "wnut17", "personal"])
def test_ner_recipes(name):
    student = parse(Path(f"recipes/ner_{name}_ckd.yaml"))
    data, args, best = student[NerArguments], student[TrainingArguments], parse(Path("recipes/best/mrpc.yaml"))
    assert student[CKDArguments] == best[CKDArguments]
    assert student[ModelArguments].student_num_layers == 6 and args.metric_for_best_model == "f1"
    assert student[ModelArguments].teacher_model_name_or_path == f"runs/ner_{name}_teacher"
    if name == "personal":
        assert (data.train_file, data.text_column, data.spans_column) == ("train.jsonl", "text", "spans")
        return
    teacher = parse(Path(f"recipes/ner_{name}_teacher.yaml"))
    assert teacher[NerArguments] == data and data.dataset_revision == "refs/convert/parquet"
    assert teacher[TrainingArguments].output_dir == f"runs/ner_{name}_teacher"
    assert (teacher[TrainingArguments].learning_rate, teacher[TrainingArguments].weight_decay) == (2e-5, 0.01)


def test_the_reranker_recipe():
    options = parse(Path("recipes/reranker_ckd.yaml"))
    data, args = options[GlueArguments], options[TrainingArguments]
    assert options[CKDArguments] == parse(Path("recipes/best/mrpc.yaml"))[CKDArguments]
    assert options[RankingArguments].weights == {"listwise": 0.5, "margin_mse": 0.5}
    text_task(data, seed=0).use_stages(stages_of(list(options.values())))  # raises if batches would cut groups
    assert data.group_column == "query_id" and args.metric_for_best_model == ranking.SCORES[0]


def test_the_recipe_for_own_texts_is_patient():
    options = parse(Path("recipes/texts_ckd.yaml"))
    data, args, run = options[GlueArguments], options[TrainingArguments], options[RunArguments]
    assert options[CKDArguments] == dataclasses.replace(
        parse(Path("recipes/best/sst2.yaml"))[CKDArguments], teacher_cache_dir="runs/texts_cache"
    )
    assert (data.train_file, data.text_column, data.label_column) == ("train.csv", "text", "label")
    assert (args.num_train_epochs, run.early_stopping_patience, args.load_best_model_at_end) == (12, 3, True)


def test_relations_come_first():
    path = Path("recipes/texts_relations_first.yaml")
    options, patient = parse(path), parse(Path("recipes/texts_ckd.yaml"))
    assert options[CKDArguments] == patient[CKDArguments] and options[GlueArguments] == patient[GlueArguments]
    first, second = stages_of(list(options.values()))
    assert (first.ckd_args.labels_and_logits, first.ckd_args.weights) == (False, {"wr_distance": 0.3})
    assert (second.ckd_args.labels_and_logits, second.ckd_args.weights) == (True, {"logits": 0.7})
    assert [stage.args.num_train_epochs for stage in (first, second)] == [1, 3]
    assert [stage.args.load_best_model_at_end for stage in (first, second)] == [False, True]


def test_goemotions_recipes():
    teacher, student = (parse(Path(f"recipes/goemotions_{role}.yaml")) for role in ("teacher", "ckd"))
    assert student[GlueArguments] == teacher[GlueArguments] and student[GlueArguments].multi_label
    assert student[CKDArguments] == parse(Path("recipes/best/mrpc.yaml"))[CKDArguments]
    assert student[ModelArguments].student_num_layers == 6
    assert student[ModelArguments].teacher_model_name_or_path == teacher[TrainingArguments].output_dir
    for options in (teacher, student):
        args = options[TrainingArguments]
        assert args.metric_for_best_model == SCORES[0] and args.greater_is_better and args.load_best_model_at_end
    args = teacher[TrainingArguments]
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (5e-5, 4, 16)


@pytest.mark.parametrize("path", CLUSTERS, ids=str)
def test_cluster_file_loads_in_accelerate(path):
    command = launch_command(path)
    assert command[:4] == ["accelerate", "launch", "--config_file", path.as_posix()]
    assert (PROJECT / command[4]).is_file()
    assert Path(command[5]) in RECIPES

    config = load_config_from_file(str(PROJECT / path))
    expected = {
        "cpu": ("NO", 1, True),
        "cpu_processes": ("MULTI_GPU", 1, True),
        "one_gpu": ("NO", 1, False),
        "multi_gpu": ("MULTI_GPU", 1, False),
        "multi_node": ("MULTI_GPU", 2, False),
        "fsdp2": ("FSDP", 1, False),
        "deepspeed_zero2": ("DEEPSPEED", 1, False),
        "deepspeed_zero3": ("DEEPSPEED", 1, False),
    }
    assert (config.distributed_type.value, config.num_machines, config.use_cpu) == expected[path.stem]
    assert (config.num_processes > 1) == (path.stem not in ("cpu", "one_gpu"))
    # YAML reads a bare no as False, which accelerate takes until the launch.
    assert isinstance(config.mixed_precision, str)
    if "deepspeed" in path.stem:
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
    if path.stem == "multi_node":
        assert config.main_process_ip and config.main_process_port
