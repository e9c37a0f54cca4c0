"""Bad input of every kind to every script: one message, exit code 2, and nothing on the disk has changed.

Each row of the tables below is one thing that is wrong beside a command that works. `HERE` stands for the row's own
folder, `GOOD` for the models and files that all rows share.
"""

import gc
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from helpers.files import Touch, sentences, snapshot, write_tsv
from helpers.tiny import WORDS, save_tokenizer, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertForQuestionAnswering,
    BertModel,
    CanineConfig,
    FunnelConfig,
    Gemma3Config,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
)

import ckd_trainer.data.demo.agreement
import ckd_trainer.data.demo.reading
import ckd_trainer.data.glue
import ckd_trainer.reports.table
import run_glue_ckd
import run_squad_ckd
import run_teacher

TEACHER, GLUE, SQUAD = run_teacher.main, run_glue_ckd.main, run_squad_ckd.main
AGREEMENT, READING = ckd_trainer.data.demo.agreement.main, ckd_trainer.data.demo.reading.main
SUBMISSION, REPORT = ckd_trainer.data.glue.main, ckd_trainer.reports.table.main

QUICK = "--do_train --max_steps 1 --report_to none --disable_tqdm true --output_dir HERE/out"
STUDENT = "--student_init teacher_layers --student_num_layers 2"
TEXTS = "--train_file GOOD/train.tsv --validation_file GOOD/validation.tsv --max_seq_length 32"
QUESTIONS = "--train_file GOOD/train.json --max_seq_length 14 --doc_stride 3 --max_question_length 4"
COMMANDS = {
    TEACHER: f"--model_name_or_path GOOD/teacher {TEXTS} {QUICK}",
    GLUE: f"--teacher_model_name_or_path GOOD/teacher {STUDENT} {TEXTS} {QUICK}",
    SQUAD: f"--teacher_model_name_or_path GOOD/answers {STUDENT} {QUESTIONS} {QUICK}",
}
PRETRAINED = "--student_init pretrained --student_num_layers none --model_name_or_path"
RANDOM = "--student_init random --student_num_layers none --student_config"
ALONE = "model_name_or_path: GOOD/teacher\ntrain_file: GOOD/train.tsv\nmax_seq_length: 32\n"
ALONE += "do_train: true\nmax_steps: 1\nreport_to: none\ndisable_tqdm: true\n"


class Row(NamedTuple):
    """A command that is refused.

    `files` are written to HERE first: by name the content, or a function that makes it of its path and GOOD. `words`
    are in the message, parted by " | ": which value, why not, what instead. A row that is `alone` has no options but
    its own.
    """

    name: str
    main: Callable
    words: str = ""
    options: str = ""
    files: dict = {}
    alone: bool = False

    def start(self, here, good):
        """Writes the files and returns the command line."""
        for name, content in self.files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path, good)
            else:
                path.write_bytes(content if isinstance(content, bytes) else named(content, here, good).encode())
        recipe = "HERE/recipe.yaml" if "recipe.yaml" in self.files else ""
        words = f"{recipe} {'' if self.alone else COMMANDS[self.main]} {self.options}".split()
        return [named(word, here, good) for word in words]


def named(text, here, good):
    return text.replace("HERE", str(here)).replace("GOOD", str(good))


# ---------------------------------------------------------------------------------------------- what rows are of


def recipe(name, content, words="", main=GLUE, alone=False):
    return Row(f"recipe: {name}", main, words, files={"recipe.yaml": content}, alone=alone)


def option(options, words="", main=GLUE, name=None):
    return Row(f"option: {name or options}", main, words, options)


def texts(name, content, words="", file="bad.tsv", options=""):
    return Row(f"texts: {name}", GLUE, words, f"--train_file HERE/{file} {options}", {file: content})


def questions(name, content, words="", file="bad.json", options=""):
    return Row(f"questions: {name}", SQUAD, words, f"--train_file HERE/{file} {options}", {file: content})


def teacher(name, make, words="", main=GLUE, options="", kind="model"):
    which = "model_name_or_path" if main is TEACHER else "teacher_model_name_or_path"
    return Row(f"{kind}: {name}", main, words, f"--{which} HERE/model {options}", {"model": make})


def pair(name, make, words, main=GLUE, options=""):
    return Row(f"pair: {name}", main, words, f"{PRETRAINED} HERE/student {options}", {"student": make})


def output(name, files, words, options=""):
    return Row(f"output: {name}", GLUE, words, options, files)


def cache(name, make, words):
    return Row(f"cache: {name}", GLUE, words, "--teacher_cache_dir HERE/cache", {"cache": make})


def command(name, main, options, files, words):
    return Row(f"command: {main.__module__.split('.')[-1]}, {name}", main, words, options, files, alone=True)


# ------------------------------------------------------------------------------------------ how bad files are made


def folder(path, good):
    path.mkdir()


def copied(name, *changes):
    """A copy of something in GOOD, with changes."""

    def make(path, good):
        (shutil.copytree if (good / name).is_dir() else shutil.copyfile)(good / name, path)
        for change in changes:
            change(path)

    return make


def without(pattern):
    def change(path):
        for file in path.glob(pattern):
            file.unlink()

    return change


def holding(name, content):
    def change(path):
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def saying(name, **values):
    """Changes entries of a JSON file."""

    def change(path):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | values))

    return change


def cut(pattern, size=-100):
    def change(path):
        (file,) = path.glob(pattern)
        file.write_bytes(file.read_bytes()[:size])

    return change


def one_bit(pattern):
    def change(path):
        (file,) = path.glob(pattern)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return change


def modelled(words=WORDS, kind=None, tokenizer=None, **config):
    """A model of its own."""

    def make(path, good):
        model = tiny_model(**config) if kind is None else kind(tiny_config(**config))
        model.save_pretrained(path)
        save_tokenizer(path, words=words, **tokenizer or {})

    return make


def renamed(prefix):
    """Puts a prefix before the names of the weights."""

    def change(path):
        weights = load_file(path / "model.safetensors")
        weights = {prefix + name: tensor for name, tensor in weights.items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    return change


def configured(kind):
    """A configuration alone: the kind of model is refused before its weights are looked for."""

    def make(path, good):
        kind().save_pretrained(path)
        save_tokenizer(path)

    return make


def adapter(path, good):
    """What peft saves of LoRA."""
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "bert"}))
    (path / "adapter_model.safetensors").write_bytes((good / "teacher" / "model.safetensors").read_bytes())


def unfinished(path, good):
    """A file where an unfinished cache would go on."""
    (key,) = (folder.name for folder in (good / "cache").iterdir() if folder.is_dir())
    path.mkdir()
    (path / f"{key}.building").write_text("mine")


def manifest(changes):
    """Changes entries of a cache's manifest, or replaces it."""

    def change(path):
        (file,) = path.glob("*/manifest.json")
        content = json.loads(file.read_text())
        if isinstance(changes, list):
            content = changes
        else:
            for key, value in changes.items():
                content[key] = content[key] | value if isinstance(value, dict) else value
        file.write_text(json.dumps(content))

    return change


def pickled(path):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(path.parent / "marker"))))


def coded(path):
    """A model whose code comes with it, and would make a file."""
    (path / "evil.py").write_text(f"open({str(path.parent / 'marker')!r}, 'w')\nEvilConfig = EvilModel = object\n")


def parquet(change=None, **columns):
    def make(path, good):
        columns_of = columns or {"text": ["the cat", "a dog"] * 500, "label": ["good", "bad"] * 500}
        table = pa.table(columns_of)
        pq.write_table(change(table) if change else table, path)

    return make


def truncated_parquet(path, good):
    parquet()(path, good)
    path.write_bytes(path.read_bytes()[:-50])


def damaged_parquet(path, good):
    parquet()(path, good)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(40) + content[44:])


def no_utf8(table):
    offsets, content = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9\xe9")
    return table.slice(0, 2).set_column(0, "text", pa.Array.from_buffers(pa.string(), 2, [None, offsets, content]))


def named_classes(table):
    features = Features({"label": ClassLabel(names=["bad", "good"]), "text": Value("string")})
    return table.replace_schema_metadata(features.arrow_schema.metadata)


def question(id="1", text="good", start=11, **more):
    return {"id": id, "question": "very not", "answers": [{"text": text, "answer_start": start}]} | more


def squad(*questions, context="the cat is good", **more):
    """Official JSON."""
    paragraph = {"context": context, "qas": list(questions or [question()])} | more
    return json.dumps({"version": "1.1", "data": [{"title": "words", "paragraphs": [paragraph]}]})


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def text_lines(*rows):
    return "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)


FINE = text_lines(("the cat", "good"), ("a dog", "bad"))
CODE = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"}
NOISE = bytes(range(256)) * 8
DEEP = "[" * 100_000


# -------------------------------------------------------------------------------------------------------- the rows

RECIPES = [
    Row("recipe: missing", GLUE, "cannot read the recipe nonesuch.yaml | No such file", "nonesuch.yaml", alone=True),
    Row("recipe: missing for a teacher", TEACHER, "cannot read | No such file", "nonesuch.yaml", alone=True),
    recipe("a folder", folder, "cannot read the recipe | Is a directory"),
    recipe("binary", NOISE, "recipe.yaml is not YAML"),
    recipe("UTF-16", "seed: 1\n".encode("utf-16"), "recipe.yaml is not YAML | utf-8"),
    recipe("not YAML", "seed: [1\n", "recipe.yaml is not YAML | line 2"),
    recipe("tabs", "a:\n\tseed: 1\n", "recipe.yaml is not YAML | line 2 | \\t"),
    recipe("empty", "", "recipe.yaml is no recipe | `key: value` a line"),
    recipe("a list", "- seed: 1\n", "recipe.yaml is no recipe | `key: value` a line"),
    recipe("a word", "seed\n", "recipe.yaml is no recipe | `key: value` a line", main=TEACHER),
    recipe("keys that are no words", "1: 2\n", "recipe.yaml is no recipe | `key: value` a line"),
    recipe("two documents", "seed: 1\n---\nseed: 2\n", "recipe.yaml is not YAML | line 2"),
    recipe("a key twice", "seed: 1\nalpha: 0.5\nseed: 2\n", "recipe.yaml gives seed twice | leave one out"),
    recipe("a key twice, in quotes", '"seed": 1\n"seed": 2\n', "recipe.yaml gives seed twice | leave one out"),
    recipe("a key twice, in braces", "{seed: 1, seed: 2}\n", "recipe.yaml gives seed twice | leave one out"),
    recipe("unknown key", "learning_rat: 1\n", "recipe.yaml: learning_rat | did you mean learning_rate?"),
    recipe("unknown key of SQuAD", "doc_strid: 1\n", "recipe.yaml: doc_strid | did you mean doc_stride?", main=SQUAD),
    recipe("another script's key", "alpha: 1\n", "recipe.yaml: alpha is no known option", main=TEACHER),
    recipe("wrong type", "seed: soon\n", "recipe.yaml | seed | 'soon' | int"),
    recipe("a mapping for a number", "seed: {a: 1}\n", "recipe.yaml | seed | int"),
    recipe("no value", "text_column:\n", "recipe.yaml: text_column has no value"),
    recipe("a list that holds itself", "seed: &a [*a]\n", "recipe.yaml | seed"),
    recipe("deep nesting", f"seed: {DEEP[:2000]}\n", "recipe.yaml is not YAML"),
    recipe("a date that is none", "run_name: 2024-13-45\n", "recipe.yaml is not YAML | month"),
    recipe("a number of 5000 digits", f"seed: {'1' * 5000}\n", "recipe.yaml | digits"),
    recipe("Python's os.system", "seed: !!python/object/apply:os.system ['touch marker']\n", "not YAML | os.system"),
    recipe("a Python module", "seed: !!python/module:antigravity\n", "recipe.yaml is not YAML | antigravity"),
    recipe("a Python object", "!!python/object:ckd_trainer.utils.errors.InputError {}\n", "recipe.yaml is not YAML"),
    recipe(
        "shell in train_file",
        ALONE.replace("GOOD/train.tsv", "'; touch marker; `touch marker`.tsv'") + "output_dir: $(touch marker)\n",
        "; touch marker; `touch marker`.tsv is missing | give an existing .tsv",
        main=TEACHER,
        alone=True,
    ),
    recipe(
        "shell in a model's name",
        ALONE.replace("GOOD/teacher", "$(touch marker);touch marker") + "output_dir: out\n",
        "cannot load $(touch marker);touch marker | alphanumeric",
        main=TEACHER,
        alone=True,
    ),
    recipe("NUL in output_dir", ALONE + 'output_dir: "a\\0b"\n', "output_dir", main=TEACHER, alone=True),
]

OPTIONS = [
    option("--seed 1.5", "seed | invalid int value | '1.5'"),
    option("--learning_rate fast", "learning_rate | invalid float value | 'fast'", main=TEACHER),
    option("--seed", "seed | expected one argument"),
    option(f"--seed {'x' * 100_000}", "seed | invalid int value | xxx", name="--seed xxx..."),
    option("--do_eval perhaps", "do_eval | Truthy value expected | perhaps"),
    option("--distance l3", "distance | invalid choice | 'l3' | cosine"),
    option("--optim nonesuch", "optim | nonesuch | adamw_torch"),
    option("--nonesuch 1", "nonesuch is no known option"),
    option("--alph 1", "alph is no known option | did you mean alpha?"),
    option("recipes/later.yaml", "recipes/later.yaml stands behind other options | the recipe comes first"),
    option("--alpha 1.5", "alpha is 1.5 | share of the loss | from 0 to 1"),
    option("--alpha nan", "alpha is nan | share of the loss | from 0 to 1", main=SQUAD),
    option("--temperature 0", "temperature is 0.0 | logits are divided | above 0"),
    option("--wr_distance_weight -1e-5", "wr_distance_weight is -1e-05 | give 0 to turn the term off"),
    option("--window_size 4", "window_size is 4 | middle of its window | give an odd number"),
    option("--max_seq_length 0", "max_seq_length is 0 | give 1 or more"),
    option("--max_seq_length 1", "max_seq_length is 1"),
    option("--max_train_samples 0", "max_train_samples is 0 | give 1 or more", main=TEACHER),
    option("--per_device_train_batch_size 0", "per_device_train_batch_size is 0 | give 1 or more"),
    option("--num_train_epochs -1", "num_train_epochs is -1.0 | not negative"),
    option("--learning_rate inf", "learning_rate is inf | give a number"),
    option("--adam_beta1 2", "adam_beta1 | 2.0"),
    option("--adam_epsilon -1", "adam_epsilon -1.0 | change one of them"),
    option("--use_liger_kernel", "use_liger_kernel is set | not installed | leave it out"),
    option("--debug underflow_overflow", "debug is underflow_overflow | leave it out"),
    option("--dataloader_num_workers -1", "dataloader_num_workers | -1"),
    option("--seed 4294967296", "seed | 4294967296"),
    option("--max_grad_norm nan", "max_grad_norm is nan"),
    option("--label_smoothing_factor 2", "label_smoothing_factor is 2.0"),
    option("--neftune_noise_alpha -1", "neftune_noise_alpha | -1"),
    option("--eval_accumulation_steps 0 --do_eval", "eval_accumulation_steps is 0"),
    option("--eval_do_concat_batches false", "eval_do_concat_batches is off | whole sets | leave it out"),
    option("--batch_eval_metrics true --do_eval", "batch_eval_metrics is set | whole sets | eval_accumulation_steps"),
    option("--batch_eval_metrics true", "batch_eval_metrics is set | whole sets", main=SQUAD),
    option("--auto_find_batch_size true", "auto_find_batch_size is set | gradient_accumulation_steps", main=TEACHER),
    option("--fp16_full_eval true --do_eval", "fp16_full_eval is set | set fp16"),
    option("--bf16_full_eval true --do_eval", "bf16_full_eval is set | set bf16"),
    option("--max_steps 0", "max_steps is 0 | give 1 or more | num_train_epochs"),
    option("--max_steps -5", "max_steps is -5 | give 1 or more"),
    option("--data_seed -1", "data_seed is -1"),
    option("--data_seed 99999999999999999999", "data_seed is 99999999999999999999 | below"),
    option("--warmup_steps nan", "warmup_steps is nan"),
    option("--eval_delay nan --eval_strategy steps", "eval_delay is nan"),
    option("--logging_steps nan", "logging_steps is nan | set logging_strategy to no"),
    option("--logging_steps -1", "logging_steps is -1"),
    option("--save_steps 0", "save_steps is 0 | set save_strategy to no"),
    option("--eval_steps -1 --eval_strategy steps", "eval_steps is -1 | set eval_strategy to no"),
    option("--save_total_limit 0", "save_total_limit is 0 | give 1 or more | leave it out"),
    option("--debug tpu_metrics_debug", "debug is tpu_metrics_debug | TPU | leave it out"),
    option(
        "--dataloader_persistent_workers true", "dataloader_persistent_workers is set | dataloader_num_workers is 0"
    ),
    option("--dataloader_prefetch_factor 0 --dataloader_num_workers 1", "dataloader_prefetch_factor is 0"),
    option(
        '--gradient_checkpointing --gradient_checkpointing_kwargs {"nonesuch":true}',
        "checkpointing_kwargs names nonesuch | use_reentrant",
    ),
    option("--torch_compile_mode nonesuch", "torch_compile_mode is nonesuch | max-autotune"),
    option("--label_smoothing_factor 0.1", "label_smoothing_factor is set | leave it out", main=SQUAD),
    option("--label_smoothing_factor 0.1 --regression", "label_smoothing_factor is set | a number | leave it out"),
    option("--metric_for_best_model bleu", "metric_for_best_model is bleu | accuracy, f1"),
    option(
        "--prediction_loss_only --metric_for_best_model f1 --eval_strategy steps --eval_steps 1",
        "prediction_loss_only leaves no scores | f1 | eval_loss",
        name="--prediction_loss_only --metric_for_best_model f1",
    ),
    option(
        "--dataloader_drop_last --per_device_train_batch_size 17",
        "there are 16 training examples | a batch takes 17 | smaller per_device_train_batch_size",
    ),
    option(
        "--dataloader_drop_last --max_steps -1 --per_device_train_batch_size 17",
        "there are 16 training examples | a batch takes 17",
        main=TEACHER,
    ),
    option("--dataloader_drop_last --per_device_train_batch_size 64", "12 training examples | takes 64", main=SQUAD),
    option("--lr_scheduler_type cosine_with_min_lr", "min_lr | lr_scheduler_kwargs"),
    option('--lr_scheduler_kwargs {"a":1}', "lr_scheduler_kwargs"),
    option("--optim_args x", "optim_args | x"),
    option("--accelerator_config HERE/none.json", "accelerator_config | none.json"),
    option("--logging_steps 0", "logging | steps"),
    option("--warmup_steps -1", "warmup_steps"),
    option("--gradient_checkpointing_kwargs {", "gradient_checkpointing_kwargs"),
    option("--bf16 --fp16", "bf16 | fp16"),
    option("--optim adamw_bnb_8bit", "bitsandbytes"),
    option("--deepspeed HERE/nonesuch.json", "deepspeed"),
    option("--distance l2", "distance_loss kl does not compare distance l2 | give l1 or mse"),
    option("--wr_layer_mapping 1-2", "wr_layer_mapping: '1-2' is no layer mapping | such as 0:0,1:2,3:6"),
    option("--wr_layer_mapping 1:2,1:2", "wr_layer_mapping | 1:2,1:2 | names a pair twice"),
    option("--task_name cola", "task_name is cola, but train_file is set as well | give one or the other"),
    option("--task_name squadd", "task_name is 'squadd', which is no task | the nearest is squad", main=TEACHER),
    option("--data_dir GOOD", "data_dir is set without task_name | name the GLUE task"),
    option("--doc_stride 7", "max_seq_length 14 leaves 7 | share doc_stride 7 | give a smaller", main=SQUAD),
    option("--load_best_model_at_end", "load_best_model_at_end | save | eval"),
    option("--early_stopping_patience 1", "early_stopping_patience is set | load_best_model_at_end | Set it"),
    option(
        "--early_stopping_patience -1 --load_best_model_at_end --eval_strategy epoch --save_strategy epoch",
        "early_stopping_patience is -1",
        name="--early_stopping_patience -1",
    ),
    option("--student_init pretrained", "student_num_layers is set | as it is | teacher_layers or random"),
    option("--student_num_layers 5", "student_num_layers is 5 | has only 4 layers"),
    option("--student_num_layers none --student_layers 2,9", "student_layers is 2,9 | has layers 1 to 4"),
    option("--student_layers two,four", "student_layers is 'two,four' | first, last, skip, uniform | such as 2,4,6"),
    option(f"{RANDOM} [1]", "student_config is '[1]' | give a mapping", name="--student_config [1]"),
    option(
        f'{RANDOM} {{"hiden_size":8}}',
        "student_config names hiden_size | does not have",
        name='--student_config {"hiden_size":8}',
    ),
    option(
        f'{RANDOM} {{"hidden_size":"wide"}}', "student_config | wide", name='--student_config {"hidden_size":"wide"}'
    ),
    option(
        f'{RANDOM} {{"num_attention_heads":5}}',
        "student_config | 5",
        name='--student_config {"num_attention_heads":5}',
    ),
    option(f'{RANDOM} {{"hidden_size":-8}}', "student_config | -8", name='--student_config {"hidden_size":-8}'),
    option("--resume_from_checkpoint HERE/nonesuch", "resume_from_checkpoint is | no complete checkpoint | name a"),
    option("--train_file ~nonesuch/train.tsv", "~nonesuch/train.tsv | give an existing"),
    option("--teacher_model_name_or_path ~nonesuch/teacher", "~nonesuch/teacher is no path | give an existing"),
    option("--output_dir=~nonesuch/out", "~nonesuch/out is no path", main=TEACHER),
    option("--teacher_cache_dir=~nonesuch/cache", "~nonesuch/cache is no path"),
    option(f"--train_file {'x' * 300}.tsv", "xxx.tsv", name="--train_file xxx..."),
    option(f"--output_dir HERE/{'x' * 300}", "output_dir | xxx", name="--output_dir xxx..."),
    option(f"--teacher_model_name_or_path {'x' * 300}", "cannot load xxx", name="--teacher_model_name_or_path xxx..."),
]

CLASSIFICATION = [
    texts("empty", b"", "bad.tsv has no rows | give a file with data"),
    texts("only a header", "text\tlabel\n", "bad.tsv has no rows | give a file with data"),
    texts("binary", NOISE, "bad.tsv, line 2: not UTF-8 | save the file as UTF-8"),
    texts("UTF-16", FINE.encode("utf-16"), "bad.tsv, line 1: not UTF-8 | save the file as UTF-8"),
    texts("UTF-16 without a mark", FINE.encode("utf-16-le"), "line 1: there is a NUL | damaged or not UTF-8"),
    texts("Latin-1", text_lines(("le café", "good")).encode("latin-1"), "line 2: not UTF-8 | as UTF-8"),
    texts("NUL", FINE.replace("dog", "d\0g"), "bad.tsv, line 3: there is a NUL | damaged"),
    texts("too few fields", FINE + "a bird\n", "bad.tsv, line 4 | 1 fields, not 2 | tabs separate fields"),
    texts("too many fields", FINE + "a\tb\tbad\n", "bad.tsv, line 4 | 3 fields, not 2 | tabs separate"),
    texts("blank line", FINE.replace("\na", "\n\na"), "bad.tsv, line 3: the line is blank | delete it"),
    texts("header twice", "text\tlabel\ttext\na\tb\tc\n", "'text' occurs twice | its own name"),
    texts("no such column", FINE.replace("label", "stars"), "no column 'label' | it has 'text', 'stars'"),
    texts("missing label", FINE + "a bird\t\n", "bad.tsv, line 4: the label ('label') is empty | leave the row out"),
    texts("blank label", FINE + "a bird\t \n", "bad.tsv, line 4: the label ('label') is empty | leave the row out"),
    texts("label of two lines", 'text,label\na,"b\nc"\n', "line 2 | 'b\\nc' | without tabs", file="bad.csv"),
    texts("header in the middle", FINE + FINE, "bad.tsv, line 4 | repeats the header | delete it"),
    texts(
        "scores as classes",
        text_lines(*(("a", f"0.{number}") for number in range(1000, 2200))),
        "1200 rows name 1200 classes | set regression | label_column",
    ),
    texts("ids as classes", text_lines(*(("a", f"id{n}") for n in range(12))), "12 classes | label_column"),
    texts("commas in a tsv file", FINE.replace("\t", ","), "it has 'text,label' | .tsv file has tabs"),
    texts("tsv with all in quotes", '"text"\t"label"\n"a"\t"b"\n', "names are in quotes | set quoting to csv"),
    texts("tsv with tabs in quotes", 'text\tlabel\n"a\tb"\tc\n', "line 2 | 3 fields, not 2 | set quoting to csv"),
    texts(
        "csv with quotes as text", 'text,label\n"a" b,c\n', "line 2 | cannot be read | set quoting to none", "bad.csv"
    ),
    texts("a text of 1 MB for a score", text_lines(("a", "x" * 10**6)), "line 2 | xxx...xxx", options="--regression"),
    texts("csv by semicolons", "text;label\na;b;c\n", "line 2 | quote a field with semicolons", file="bad.csv"),
    texts("one class only", text_lines(("a", "good"), ("b", "good")), "every label | 'good' | give two classes"),
    texts("no number", FINE, "line 2: the label ('label') is 'good' | not a number", options="--regression"),
    texts("infinite", text_lines(("a", "1e999")), "'1e999' | not a number", options="--regression"),
    texts("open quote", 'text,label\n"a,good\nb,bad\n', "bad.csv, line 2 | cannot be read", file="bad.csv"),
    texts(
        "JSON broken", '{"text": "a", "label": 1}\n{"text": \n', "line 2: this is not JSON | column", file="a.jsonl"
    ),
    texts("JSON list", '[{"text": "a"}]\n', "line 1: this is a list | give one object a line", file="a.json"),
    texts("JSON deep without end", DEEP + "\n", "line 1: this is not JSON | give one object a line", file="a.jsonl"),
    texts(
        "JSON deep",
        lines({"text": "a", "label": 1}) + f'{{"text": "b", "label": {"[" * 400}{"]" * 400}}}\n',
        "a.jsonl | 'label'",
        file="a.jsonl",
    ),
    texts("JSON digits", f'{{"text": "a", "label": {"1" * 5000}}}\n', "line 1: this is not JSON", file="a.jsonl"),
    texts(
        "JSON key twice",
        '{"text": "a", "text": "b", "label": "good"}\n{"text": "c", "label": "bad"}\n',
        "line 1 | 'text' | twice",
        file="a.jsonl",
    ),
    texts(
        "JSON mixed",
        lines({"text": "a", "label": 1}, {"text": "b", "label": "x"}),
        "line 2 | 'x' | one kind",
        file="a.jsonl",
    ),
    texts(
        "JSON number for a text",
        lines({"text": 1, "label": 1}, {"text": 2, "label": 0}),
        "line 1: 'text' is 1 | not text | in quotes",
        file="a.jsonl",
    ),
    texts(
        "JSON null for a text",
        lines({"text": None, "label": 1}, {"text": "b", "label": 0}),
        "line 1 | no 'text' | give a text",
        file="a.jsonl",
    ),
    texts(
        "JSON half a character",
        '{"text": "\\ud800", "label": 1}\n{"text": "b", "label": 0}\n',
        "a.jsonl | 'text'",
        file="a.jsonl",
    ),
    texts("parquet truncated", truncated_parquet, "a.parquet is not a parquet file", file="a.parquet"),
    texts("parquet damaged", damaged_parquet, "a.parquet is not a parquet file", file="a.parquet"),
    texts(
        "parquet with an id too high",
        parquet(named_classes, label=[0, 2], text=["a", "b"]),
        "row 2 | is 2, but | 2 names",
        "a.parquet",
    ),
    texts(
        "parquet with an id below",
        parquet(named_classes, label=[0, -2], text=["a", "b"]),
        "row 2 | is -2, but | 2 names",
        "a.parquet",
    ),
    texts("parquet of text", FINE, "a.parquet is not a parquet file", file="a.parquet"),
    texts("parquet not UTF-8", parquet(no_utf8), "a.parquet | UTF-8", file="a.parquet"),
    texts("parquet of bytes", parquet(text=[b"a", b"b"], label=[1, 0]), "row 1: 'text' is b'a'", file="a.parquet"),
    texts(
        "parquet with broken notes",
        parquet(lambda table: table.replace_schema_metadata({"huggingface": "{"})),
        "a.parquet",
        file="a.parquet",
    ),
    texts("a folder", folder, "bad.tsv is a folder | give an existing .tsv file"),
    texts("unknown suffix", FINE, "bad.xlsx has the suffix '.xlsx' | give a .csv", file="bad.xlsx"),
    Row(
        "texts: test file without texts",
        GLUE,
        "bad.tsv has no column 'text' | it has 'sentence', 'label'",
        "--do_predict --test_file HERE/bad.tsv",
        {"bad.tsv": FINE.replace("text", "sentence")},
    ),
    texts("missing", FINE, "none.tsv is missing | give an existing .tsv file", options="--train_file HERE/none.tsv"),
    Row(
        "texts: unknown label in validation",
        TEACHER,
        "bad.tsv, line 3 | 'fine' | the training data have 2 labels: 'bad', 'good'",
        "--validation_file HERE/bad.tsv --do_eval",
        {"bad.tsv": text_lines(("a cat", "good"), ("a dog", "fine"))},
    ),
    Row(
        "texts: validation without a label",
        GLUE,
        "bad.tsv, line 2 | is empty | leave the row out",
        "--validation_file HERE/bad.tsv --do_eval",
        {"bad.tsv": text_lines(("a cat", ""))},
    ),
    Row(
        "texts: CoLA's folder without its files",
        TEACHER,
        "train.tsv is missing | holds nothing | CoLA/train.tsv",
        f"--task_name cola --data_dir HERE/glue --model_name_or_path GOOD/teacher --max_seq_length 32 {QUICK}",
        {"glue/CoLA": folder},
        alone=True,
    ),
]

ANSWERS = [
    questions("empty", b"", "bad.json has no rows | give a file with data"),
    questions("malformed", squad()[:-3] + "}", "bad.json, line 1, column | not JSON | official SQuAD JSON"),
    questions(
        "malformed on a line",
        squad().replace("[{", "[\n{").replace('"qas":', '"qas"'),
        "line 3, column 38 | Expecting ':' | official SQuAD JSON",
    ),
    questions("cut off", squad()[:70], "bad.json, line 1, column | not JSON"),
    questions("something behind", squad() + "\n{}", "line 2, column 1 | something follows"),
    questions("UTF-16", squad().encode("utf-16"), "line 1: not UTF-8 | save the file as UTF-8"),
    questions("deep nesting", DEEP, "bad.json cannot be read as JSON | recursion | official SQuAD JSON"),
    questions("deep nesting in data", '{"data": ' + DEEP, "cannot be read as JSON | recursion"),
    questions("a list", "[1, 2]", "bad.json begins with [1, 2] | neither layout | official SQuAD JSON"),
    questions("no questions", '{"data": []}', "bad.json has no questions | give some"),
    questions("data of numbers", '{"data": [1]}', "data[0] is 1 | 'paragraphs'"),
    questions("no answers", squad({"id": "1", "question": "a"}), "qas[0]: there is no 'answers' | add it, a list"),
    questions("id of a number", squad(question(id=7)), "qas[0]: 'id' is 7 | give a text in quotes"),
    questions("start in quotes", squad(question(start="11")), "'answer_start' is '11' | give a whole number"),
    questions("start of truth", squad(question(start=True)), "'answer_start' is True | give a whole number"),
    questions("context of a list", squad(context=["a"]), "'context' is ['a'] | give a text in quotes"),
    questions("blank id", squad(question(id=" ")), "1 of 1 questions have an empty id | an id of its own"),
    questions("id twice", squad(question(), question()), "1 ids occur more than once ('1') | an id of its own"),
    questions(
        "misplaced",
        squad(question(start=10)),
        "not at its answer_start ('1') | ' goo' at 10, not 'good' | --drop_misplaced_answers",
    ),
    questions("far away", squad(question(start=2**70)), "not at its answer_start | fix the offsets"),
    questions("negative start", squad(question(start=-4)), "negative answer_start | count the characters"),
    questions(
        "all misplaced",
        squad(question(start=0)),
        "leaves nothing | fix the offsets",
        options="--drop_misplaced_answers",
    ),
    questions("blank answer", squad(question(text=" ", start=3)), "blank answer | squad_v2"),
    questions("no answer in v1.1", squad(question(answers=[])), "1 of 1 questions have no answer | squad_v2"),
    questions(
        "impossible with answers",
        squad(question(is_impossible=True)),
        "'is_impossible' is True | make it false",
        options="--task_name squad_v2",
    ),
    questions("half a character", squad(question(start=6), context="\ud800 the good"), "not text | whole character"),
    questions("key twice", squad().replace('"context"', '"context": "a", "context"'), "'context' | twice"),
    questions(
        "lines without context",
        lines({"id": "1", "question": "a"}),
        "no column 'context' | it has 'id'",
        file="bad.jsonl",
    ),
    questions(
        "lines with other answers",
        lines({"id": "1", "question": "a", "context": "b", "answers": ["b"]}),
        "line 1: 'answers' is ['b'] | without a list 'text'",
        file="bad.jsonl",
    ),
    questions(
        "csv with answers in words",
        "id,context,question,answers\n1,a,b,c\n",
        "line 2: 'answers' is 'c' | not JSON | answer_start",
        file="bad.csv",
    ),
    questions(
        "csv in quotes as tsv",
        'id\tcontext\tquestion\tanswers\n1\t"a\tb"\tc\t"{""text"": [""b""], ""answer_start"": [2]}"\n',
        "line 2 | 5 fields, not 4 | set quoting to csv",
        file="bad.tsv",
    ),
    questions("texts of another task", FINE, "no column 'id' | it has 'text', 'label'", file="bad.tsv"),
    Row(
        "questions: a folder without the files",
        SQUAD,
        "train-v1.1.json is missing | give an existing",
        f"--teacher_model_name_or_path GOOD/answers --data_dir HERE/data {STUDENT} {QUICK}",
        {"data": folder},
        True,
    ),
]

MODELS = [
    Row("model: no such folder", GLUE, "cannot load | nonesuch", "--teacher_model_name_or_path HERE/nonesuch"),
    Row("model: no such name", TEACHER, "cannot load nobody/nothing", "--model_name_or_path nobody/nothing"),
    Row("model: shell", TEACHER, "cannot load $(touch", "--model_name_or_path $(touch${IFS}marker);touch"),
    Row("model: a file", GLUE, "cannot load | train.tsv", "--teacher_model_name_or_path GOOD/train.tsv"),
    Row("model: none given", TEACHER, "model_name_or_path is not given", f"{TEXTS} {QUICK}", alone=True),
    Row(
        "model: no teacher given",
        GLUE,
        "teacher_model_name_or_path is not given | a term of the loss | name one",
        f"{TEXTS} {QUICK} --model_name_or_path GOOD/teacher",
        alone=True,
    ),
    teacher("an empty folder", folder, "cannot load | model"),
    teacher("no config", copied("teacher", without("config.json")), "cannot load | config.json"),
    teacher("config not JSON", copied("teacher", holding("config.json", "{")), "cannot load | config.json"),
    teacher("config binary", copied("teacher", holding("config.json", NOISE)), "cannot load"),
    teacher("config a list", copied("teacher", holding("config.json", "[]")), "cannot load", main=TEACHER),
    teacher("config of an unknown kind", copied("teacher", saying("config.json", model_type="evil")), "evil"),
    teacher(
        "config with words for numbers", copied("teacher", saying("config.json", num_hidden_layers="four")), "four"
    ),
    teacher("config that does not divide", copied("teacher", saying("config.json", hidden_size=33)), "33"),
    teacher(
        "config with a label left out",
        copied("teacher", saying("config.json", id2label={"0": "bad", "7": "good"})),
        "label",
    ),
    teacher(
        "config deeper than the weights",
        copied("teacher", saying("config.json", num_hidden_layers=6)),
        "no weights for | describes another model",
    ),
    teacher(
        "config flatter than the weights",
        copied("teacher", saying("config.json", num_hidden_layers=2)),
        "holds weights that | does not use | encoder.layer.2 | allow_unused_weights",
    ),
    teacher(
        "config flatter than the weights, to fine-tune",
        copied("teacher", saying("config.json", num_hidden_layers=2)),
        "holds weights that | does not use | encoder.layer.2 | allow_unused_weights",
        main=TEACHER,
    ),
    teacher(
        "config of longer texts, to fine-tune",
        copied("teacher", saying("config.json", max_position_embeddings=64)),
        "position_embeddings.weight in the shape (32, 32) | asks for (64, 32)",
        main=TEACHER,
    ),
    teacher(
        "weights of a wrapper", copied("teacher", renamed("module.")), "names such as module. | DataParallel | rename"
    ),
    teacher(
        "weights of a wrapper, to fine-tune",
        copied("teacher", renamed("_orig_mod.")),
        "names such as _orig_mod. | save_pretrained | student_init to random",
        main=TEACHER,
    ),
    teacher(
        "weights of a wrapper, for questions",
        copied("answers", renamed("model.")),
        "names such as model. | DataParallel | rename",
        main=SQUAD,
    ),
    teacher("BART", configured(BartConfig), "bart model has an encoder and a decoder | give a text encoder"),
    teacher("T5, to fine-tune", configured(T5Config), "t5 model has an encoder and a decoder | bert", main=TEACHER),
    teacher("BART for questions", configured(BartConfig), "bart model has an encoder and a decoder", main=SQUAD),
    teacher("Funnel", configured(FunnelConfig), "funnel model pools the tokens | give a text encoder"),
    teacher("CANINE", configured(CanineConfig), "canine model reads characters | give a text encoder", main=TEACHER),
    teacher(
        "of images", configured(ViTConfig), "is a vit model | SequenceClassification does not know | a text encoder"
    ),
    teacher(
        "of images, for questions",
        configured(ViTConfig),
        "is a vit model | QuestionAnswering does not know | bert",
        main=SQUAD,
    ),
    teacher(
        "of sounds, to fine-tune", configured(Wav2Vec2Config), "is a wav2vec2 model | does not know", main=TEACHER
    ),
    teacher("of images and text", configured(Gemma3Config), "gemma3 model | number of layers | a text encoder"),
    teacher("an adapter", adapter, "holds an adapter | merge_and_unload | new folder"),
    teacher("an adapter, to fine-tune", adapter, "holds an adapter | merge_and_unload | new folder", main=TEACHER),
    teacher("no weights", copied("teacher", without("model.safetensors")), "cannot load | model.safetensors"),
    teacher("weights truncated", copied("teacher", cut("model.safetensors")), "cannot load"),
    teacher("weights empty", copied("teacher", holding("model.safetensors", b"")), "cannot load", main=TEACHER),
    teacher(
        "weights with an endless head", copied("teacher", holding("model.safetensors", b"\xff" * 64)), "cannot load"
    ),
    teacher("weights pickled", copied("teacher", pickled), "cannot load | safetensors"),
    teacher("weights pickled, to fine-tune", copied("teacher", pickled), "cannot load | safetensors", main=TEACHER),
    teacher("no head", modelled(kind=BertModel), "no weights for classifier | run_teacher.py"),
    teacher("head of questions", copied("answers"), "no weights for | classifier.bias | run_teacher.py"),
    teacher("head of classes", copied("teacher"), "no weights for qa_outputs | run_teacher.py", main=SQUAD),
    teacher(
        "head of three classes",
        modelled(labels=("a", "b", "c")),
        "the teacher has 3 outputs | run_teacher.py",
        main=SQUAD,
    ),
    teacher(
        "code of its own",
        copied("teacher", coded, saying("config.json", model_type="evil", auto_map=CODE)),
        "cannot load | trust_remote_code",
    ),
    teacher("no tokenizer", copied("teacher", without("token*")), "model has no tokenizer | put the files"),
    teacher("tokenizer not JSON", copied("teacher", holding("tokenizer.json", "{")), "cannot load"),
    teacher(
        "tokenizer without padding",
        copied("teacher", saying("tokenizer_config.json", pad_token=None)),
        "no padding token | batches",
    ),
    teacher(
        "tokenizer with more words",
        modelled(words=[*WORDS, "more"]),
        "the tokenizer has 23 entries | for 22 | do not belong together",
    ),
    teacher(
        "too short for the texts",
        copied("teacher"),
        "max_seq_length is 33 | at most 32 | give 32",
        options="--max_seq_length 33",
    ),
    teacher(
        "too short for the questions",
        copied("answers"),
        "max_seq_length is 99 | at most 32 | give 32",
        main=SQUAD,
        options="--max_seq_length 99",
    ),
    teacher(
        "to evaluate other labels",
        modelled(labels=("a", "b", "c")),
        "cannot be evaluated | 3 labels | has 2",
        main=TEACHER,
        options="--do_train false --do_eval",
    ),
]

PAIRS = [
    pair(
        "another vocabulary",
        modelled(words=[*WORDS[:-1], "new"]),
        "different vocabularies | 'new' is missing and | teacher's family",
    ),
    pair(
        "a vocabulary in another order",
        modelled(words=[*WORDS[1:], WORDS[0]]),
        "different vocabularies | teacher's family",
    ),
    pair(
        "upper case",
        modelled(tokenizer={"do_lower_case": False}),
        "encode | differently | upper case | teacher's family",
        options="--train_file GOOD/upper.tsv",
    ),
    pair(
        "padding sides",
        modelled(tokenizer={"padding_side": "left"}),
        "pads on the right | student's on the left | Set padding_side",
    ),
    pair(
        "padding sides of questions",
        modelled(kind=BertForQuestionAnswering, tokenizer={"padding_side": "left"}),
        "pads on the right | student's on the left | Set padding_side",
        main=SQUAD,
    ),
    pair(
        "a mapping to layers that are not there",
        copied("teacher"),
        "names 5:4 | states 0 to 4",
        options="--wr_layer_mapping 0:0,5:4",
    ),
    pair(
        "a mapping from deep to flat",
        modelled(layers=6),
        "needs 6 teacher layers | has 4",
        options="--wr_layer_mapping last",
    ),
    pair(
        "layer-transforming relation of two pairs",
        copied("teacher"),
        "ltr_layer_mapping | 2 | three",
        options="--ltr_layer_mapping 0:0,1:2",
    ),
    teacher(
        "other labels than the texts",
        modelled(labels=("no", "yes")),
        "the teacher's labels are 'no', 'yes' | 'bad', 'good' | rename the labels",
        kind="pair",
    ),
    teacher(
        "another number of labels",
        modelled(labels=("a", "b", "c")),
        "the teacher has 3 labels | has 2 | run_teacher.py",
    ),
    teacher("a score for classes", modelled(labels=("score",)), "the teacher has 1 labels | has 2 | run_teacher.py"),
]

FOLDERS = [
    output("a file", {"out": "mine"}, "output_dir | out is a file | give a folder"),
    output("under a file", {"file": "mine"}, "output_dir | file", options="--output_dir HERE/file/out"),
    output(
        "another run's",
        {"out": copied("run")},
        "holds another run | temperature 3.0 there, 2.0 here | give another output_dir | overwrite_output_dir",
        options="--temperature 2",
    ),
    output(
        "foreign, with results",
        {"out/all_results.json": "{}"},
        "already holds all_results.json | no run of ours | give another folder",
    ),
    output(
        "foreign, and to be overwritten",
        {"out": copied("teacher")},
        "already holds config.json | no run of ours | give another folder",
        options="--overwrite_output_dir",
    ),
    output("foreign, with a checkpoint", {"out/checkpoint-3/model.safetensors": "x"}, "checkpoint-3 | no run of ours"),
    output(
        "the teacher's own",
        {"out": copied("run")},
        "holds a model that this run reads | give another output_dir",
        options="--teacher_model_name_or_path HERE/out --temperature 2 --overwrite_output_dir",
    ),
    output(
        "another run's, with a mistake",
        {"out": copied("run")},
        "none.tsv is missing | give an existing",
        options="--train_file HERE/none.tsv --overwrite_output_dir",
    ),
    output(
        "a run with a broken recipe", {"out": copied("run", holding("recipe.yaml", NOISE))}, "recipe.yaml is not YAML"
    ),
    output(
        "a trained run without its weights",
        {"out": copied("run", without("model.safetensors"))},
        "cannot load | model.safetensors",
        options="--do_eval --teacher_cache_dir GOOD/cache",
    ),
    output(
        "to resume where there is none",
        {"out": folder},
        "resume_from_checkpoint is true | no complete checkpoint | leave the option out",
        options="--resume_from_checkpoint true",
    ),
    output(
        "to resume from a cut checkpoint",
        {"old/trainer_state.json": '{"epoch": 1'},
        "resume_from_checkpoint is | no complete checkpoint | leave the option out",
        options="--resume_from_checkpoint HERE/old",
    ),
    output(
        "to resume from a checkpoint without weights",
        {"old/trainer_state.json": "{}"},
        "resume_from_checkpoint is | HERE/old",
        options="--resume_from_checkpoint HERE/old",
    ),
    output(
        "a trained run with results cut off",
        {"out": copied("run", holding("all_results.json", "{"))},
        "all_results.json",
        options="--teacher_cache_dir GOOD/cache --do_eval",
    ),
    output("no name", {}, "output_dir", options="--output_dir="),
]

CACHES = [
    cache("a file", "mine", "teacher_cache_dir | cache is a file | give a folder"),
    Row(
        "cache: under a file",
        GLUE,
        "teacher_cache_dir | cannot be written",
        "--teacher_cache_dir HERE/file/cache",
        {"file": "mine"},
    ),
    cache("a part cut off", copied("cache", cut("*/*.arrow")), "is damaged | bytes of | delete the folder"),
    cache(
        "a part of other bytes",
        copied("cache", one_bit("*/*.arrow")),
        "is damaged | other bytes than were written | delete the folder",
    ),
    cache("a part missing", copied("cache", without("*/*.arrow")), "is damaged | No such file | delete the folder"),
    cache("manifest missing", copied("cache", without("*/manifest.json")), "is damaged | manifest.json | delete the"),
    cache(
        "manifest not JSON", copied("cache", cut("*/manifest.json", 9)), "is damaged or no cache | delete the folder"
    ),
    cache("manifest a list", copied("cache", manifest([])), "is damaged or no cache | delete the folder"),
    cache(
        "another cache's manifest",
        copied("cache", manifest({"contents": {"teacher": "0"}, "parts": []})),
        "is damaged or no cache | its manifest is another cache's | delete the folder",
    ),
    cache(
        "a manifest with fewer rows",
        copied("cache", manifest({"parts": []})),
        "does not list the rows of all | delete the folder",
    ),
    cache("a file for an unfinished one", unfinished, ".building is a file | delete it"),
    cache("manifest empty", copied("cache", cut("*/manifest.json", 0)), "is damaged or no cache | delete the folder"),
]

RESULTS = {"eval_accuracy": 0.5, "latency_ms": 1.0}
REPORTED = {"run/all_results.json": json.dumps(RESULTS)}


def reported(name, content, file, words="", options=""):
    return command(name, REPORT, f"run --metric accuracy {options}", REPORTED | {f"run/{file}": content}, words)


SMALL = [
    command("no folder", AGREEMENT, "", {}, "folder | required"),
    command("a seed that is none", AGREEMENT, "data --seed x", {}, "--seed | invalid int value | 'x'"),
    command("a file for a folder", AGREEMENT, "data", {"data": "mine"}, "data | folder"),
    command(
        "other content",
        AGREEMENT,
        "data",
        {"data/train.tsv": "mine"},
        "train.tsv is there already | other content | give another folder",
    ),
    command("a folder for a file", AGREEMENT, "data", {"data/train.tsv": folder}, "train.tsv | folder"),
    command("unknown option", READING, "data --sead 1", {}, "--sead"),
    command("under a file", READING, "file/data", {"file": "mine"}, "file"),
    command(
        "other content",
        READING,
        "data",
        {"data/base/config.json": "{}"},
        "config.json is there already | other content | give another folder",
    ),
    command("no command", SUBMISSION, "", {}, "command | required"),
    command("unknown command", SUBMISSION, "submit run", {}, "'submit' | choose from 'submission'"),
    command("no such folder", SUBMISSION, "submission none", {}, "none is not a folder | give run folders"),
    command("no predictions", SUBMISSION, "submission run", {"run": folder}, "no prediction file | --do_predict"),
    command(
        "one file twice",
        SUBMISSION,
        "submission a b",
        {"a/CoLA.tsv": "", "b/predictions/CoLA.tsv": ""},
        "CoLA.tsv is there twice | leave one out",
    ),
    command(
        "a zip that is there",
        SUBMISSION,
        "submission a --output a.zip",
        {"a/CoLA.tsv": "", "a.zip": "mine"},
        "a.zip exists | --overwrite to replace it",
    ),
    command(
        "a folder for a zip",
        SUBMISSION,
        "submission a --output zip --overwrite",
        {"a/CoLA.tsv": "", "zip": folder},
        "zip | folder",
    ),
    command(
        "a zip under a file",
        SUBMISSION,
        "submission a --output file/a.zip",
        {"a/CoLA.tsv": "", "file": "mine"},
        "file",
    ),
    command("no run", REPORT, "--metric accuracy", {}, "RUN_DIR | required"),
    command(
        "no such folder",
        REPORT,
        "none --metric accuracy",
        {},
        "none cannot be reported | no such folder | Give the output_dir",
    ),
    command("a file for a folder", REPORT, "run --metric accuracy", {"run": "mine"}, "run | output_dir"),
    command(
        "no results",
        REPORT,
        "run --metric accuracy",
        {"run": folder},
        "run cannot be reported | no run has finished there | Give the output_dir",
    ),
    command("no such metric", REPORT, "run --metric bleu", REPORTED, "no metric bleu | there is accuracy"),
    reported("results cut off", '{"eval_acc', "all_results.json", "all_results.json is not JSON | Run it again"),
    reported("results binary", NOISE, "all_results.json", "all_results.json is not JSON"),
    reported("results a list", '["eval_accuracy"]', "all_results.json", "all_results.json"),
    reported("results in words", '{"eval_accuracy": "high"}', "all_results.json", "accuracy | high"),
    reported("a broken recipe", "a: [", "recipe.yaml", "recipe.yaml is not YAML"),
    reported("a recipe that is a list", "- a\n", "recipe.yaml", "recipe.yaml"),
    reported("a state that is a list", "[1]", "trainer_state.json", "trainer_state.json"),
    reported(
        "an unknown kind of picture",
        "{}",
        "trainer_state.json",
        "a.docx cannot be drawn | ending in .png",
        options="--output a.docx",
    ),
    reported(
        "a picture in no folder",
        "{}",
        "trainer_state.json",
        "none/a.png cannot be written | folder that exists",
        options="--output none/a.png",
    ),
]

ROWS = [*RECIPES, *OPTIONS, *CLASSIFICATION, *ANSWERS, *MODELS, *PAIRS, *FOLDERS, *CACHES, *SMALL]


LEGAL = [
    texts(
        "JSON deep beside the text",
        lines({"text": "a", "label": "good"}, {"text": "b", "label": "bad"})[:-2]
        + f', "x": {"[" * 400}{"]" * 400}}}\n',
        file="a.jsonl",
    ),
    texts(
        "JSON mixed beside the text",
        lines({"text": "a", "label": "good", "x": 1}, {"text": "b", "label": "bad", "x": ["x"]}),
        file="a.jsonl",
    ),
    texts("a spreadsheet's delimiter", "sep=;\ntext;label;;\na, b;good;;\nc;bad;;\n", file="a.csv"),
    texts("quotes that are text", 'text,label\n"a" b,good\nc,bad\n', file="a.csv", options="--quoting none"),
    texts("tsv in quotes", text_lines(('"a\tb ""c"""', "good"), ("d", "bad")), options="--quoting csv"),
    texts("CRLF", FINE.replace("\n", "\r\n")),
    texts("CRLF and a mark in csv", "\ufeff" + FINE.replace("\t", ",").replace("\n", "\r\n"), file="a.csv"),
    texts("a mark", "\ufeff" + FINE),
    texts("a word of 3 MB", FINE + f"{'x' * 3_000_000}\tgood\n"),
    texts(
        "JSON lines with a mark and CRLF",
        "\ufeff" + lines({"text": "a", "label": "good"}, {"text": "b\u2028c", "label": "bad"}).replace("\n", "\r\n"),
        file="a.jsonl",
    ),
    texts("parquet", parquet(), file="a.parquet"),
    texts(
        "formulas and markup", text_lines(("=cmd|' /C calc'!A0", "good"), ("<script>{{1+1}}%s$(touch marker)", "bad"))
    ),
    questions("a mark and CRLF", "\ufeff" + squad().replace("[{", "[\r\n{")),
    questions("a title of 3 MB", squad().replace("words", "words" * 600_000)),
    recipe("a mark and CRLF", "\ufeffseed: 1\r\nalpha: 0.5\r\n"),
    recipe(
        "shell in output_dir",
        ALONE + "output_dir: out;$(touch marker)`touch marker`|touch marker\n",
        main=TEACHER,
        alone=True,
    ),
    teacher("code that is not needed", copied("teacher", coded, saying("config.json", auto_map=CODE))),
    teacher(
        "code of its own for the tokenizer",
        copied(
            "teacher",
            coded,
            saying(
                "tokenizer_config.json",
                tokenizer_class="EvilTokenizer",
                auto_map={"AutoTokenizer": ["evil.EvilConfig", None]},
            ),
        ),
        main=TEACHER,
    ),
]


@pytest.fixture(autouse=True, scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory, offline):
    """Models, files, a finished run and its cache, for all rows to read, and what they are byte for byte."""
    folder = tmp_path_factory.mktemp("good")
    modelled()(folder / "teacher", None)
    modelled(kind=BertForQuestionAnswering)(folder / "answers", None)
    write_tsv(folder / "train.tsv", sentences(16))
    write_tsv(folder / "validation.tsv", sentences(4, seed=1))
    (folder / "upper.tsv").write_text(FINE.replace("cat", "Cat"))
    (folder / "train.json").write_text(squad(*(question(id=str(number)) for number in range(12))))
    (folder / "here").mkdir()
    options = "--teacher_cache_dir GOOD/cache --output_dir GOOD/run"
    GLUE(Row("", GLUE, options=options).start(folder / "here", folder))
    (folder / "here").rmdir()
    return folder, snapshot(folder)


def changes(before, after):
    """The names of what was added, taken away or changed."""
    names = sorted({*before, *after})
    return [name for name in names if name not in before or name not in after or before[name] != after[name]]


def test_the_tables_are_whole():
    assert len(ROWS) >= 260 and len({row.name for row in [*ROWS, *LEGAL]}) == len(ROWS) + len(LEGAL)
    assert {row.main for row in ROWS} == {*COMMANDS, AGREEMENT, READING, SUBMISSION, REPORT}
    assert all(row.words for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, good, tmp_path, monkeypatch, capfd):
    gc.collect()  # transformers takes a DeepSpeed configuration that a refused row has left in memory to be in use
    monkeypatch.chdir(tmp_path)
    shared, content = good
    argv = row.start(tmp_path, shared)
    before = snapshot(tmp_path)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        row.main(argv)
    printed = capfd.readouterr().err
    print(printed)
    assert stopped.value.code == 2 and "Traceback" not in printed and "panicked" not in printed
    assert [line[:7] for line in printed.splitlines()].count("error: ") == 1
    message = printed[printed.index("error: ") :]
    assert len(message) < 2000  # a screen
    assert [words for words in row.words.split(" | ") if named(words, tmp_path, shared) not in message] == []
    assert changes(before, snapshot(tmp_path)) == []
    assert changes(content, snapshot(shared)) == []


@pytest.mark.parametrize("row", LEGAL, ids=lambda row: row.name)
def test_odd_input_works_and_runs_no_code(row, good, tmp_path, monkeypatch):
    gc.collect()  # transformers takes a DeepSpeed configuration that a refused row has left in memory to be in use
    monkeypatch.chdir(tmp_path)
    shared, content = good
    argv = row.start(tmp_path, shared)
    before = snapshot(tmp_path)
    row.main(argv)
    (output,) = {Path(name).parts[0] for name in changes(before, snapshot(tmp_path))}
    assert output.startswith("out") and (tmp_path / output / "model.safetensors").is_file()
    assert changes(content, snapshot(shared)) == []
