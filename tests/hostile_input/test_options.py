"""Values that an option cannot have, alone or beside the others."""

import pytest
from helpers.hostile_input import GLUE, NER, SQUAD, TEACHER, Row

RANDOM = "--student_init random --student_num_layers none --student_config"


def option(options, words="", main=GLUE, name=None):
    return Row(f"option: {name or options}", main, words, options)


ROWS = [
    option("--seed 1.5", "seed | invalid int value | '1.5'"),
    option("--learning_rate fast", "learning_rate | invalid float value | 'fast'", main=TEACHER),
    option("--seed", "seed | expected one argument"),
    option(f"--seed {'x' * 100_000}", "seed | invalid int value | xxx", name="--seed xxx..."),
    option("--do_eval perhaps", "do_eval | Truthy value expected | perhaps"),
    option("--distance l3", "distance | invalid choice | 'l3' | cosine"),
    option("--optim nonesuch", "optim | nonesuch | adamw_torch"),
    option("--attribution_weight 1", "attribution_weight is set | spans | set it to 0", main=SQUAD),
    option("--attribution_weight 1 --attribution_top_k 33", "attribution_top_k is 33 | 32 dimensions | give fewer"),
    option("--attribution_weight 1 --torch_compile", "torch.compile | leave it out | weight of the term to 0"),
    option("--nonesuch 1", "nonesuch is not a known option"),
    option("--alph 1", "alph is not a known option | did you mean alpha?"),
    option("--alpha 0.5", "alpha is not a known option | not distilled | use ckd-trainer glue", main=TEACHER),
    option(
        "--teacher_model_name_or_path GOOD/teacher",
        "teacher_model_name_or_path is GOOD/teacher | fine-tuned, not distilled | leave it out",
        main=TEACHER,
        name="a teacher's teacher",
    ),
    option("--teacher x", "teacher is not a known option | did you mean teacher_model_name_or_path?"),
    option("--batch_size 8", "batch_size is not a known option | did you mean per_device_train_batch_size?"),
    option("--epochs 3", "epochs is not a known option | did you mean num_train_epochs?", main=TEACHER),
    option("--lr 1e-4", "lr is not a known option | did you mean learning_rate?"),
    option("--label_column tag", "label_column is not a known option: see --help", main=NER),
    option("recipes/later.yaml", "recipes/later.yaml comes after other options | give the recipe first"),
    option("--bf16 recipes/later.yaml", "recipes/later.yaml comes after other options | give the recipe first"),
    option("-alpha 0.5", "'-alpha' belongs to no option: options are written --name value"),
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
    option("--torch_compile_backend nonesuch", "torch_compile_backend is nonesuch | inductor"),
    option("--report_to nonesuch", "report_to is nonesuch | give none or some of | tensorboard", main=TEACHER),
    option(
        '--gradient_accumulation_steps 2 --accelerator_config {"gradient_accumulation_kwargs":{"num_steps":3}}',
        "num_steps | gradient_accumulation_steps",
        name="--accelerator_config with num_steps",
    ),
    option('--accelerator_config {"nonesuch":1}', "nonesuch", name="--accelerator_config with an unknown key"),
    option(
        "--push_to_hub --do_train false --do_eval",
        "push_to_hub is set | does not train | holds no trained model | give the output_dir of the run",
        main=TEACHER,
        name="--push_to_hub of an evaluation",
    ),
    option("--push_to_hub", "push_to_hub is set | cannot be created on the Hub | HF_TOKEN", main=SQUAD),
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
    option(
        '--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {"min_lr_rate":"low"}',
        "schedule cannot be made | min_lr_rate | low",
        name="--lr_scheduler_kwargs that count after the warm-up",
    ),
    option("--optim_args x", "optim_args | x"),
    option("--accelerator_config HERE/none.json", "accelerator_config | none.json"),
    option("--logging_steps 0", "logging | steps"),
    option("--warmup_steps -1", "warmup_steps"),
    option("--gradient_checkpointing_kwargs {", "gradient_checkpointing_kwargs"),
    option("--bf16 --fp16", "bf16 | fp16"),
    option("--optim adamw_bnb_8bit", "bitsandbytes"),
    option(
        "--deepspeed HERE/nonesuch.json",
        "deepspeed is set, but deepspeed is not installed: install it, or leave it out.",
    ),
    option("--distance l2", "distance_loss kl does not compare distance l2 | give l1 or mse"),
    option("--wr_layer_mapping 1-2", "wr_layer_mapping: '1-2' is not a layer mapping | such as 0:0,1:2,3:6"),
    option("--wr_layer_mapping 1:2,1:2", "wr_layer_mapping | 1:2,1:2 | names a pair twice"),
    option("--task_name cola", "task_name is cola, but train_file is set as well | give one or the other"),
    option("--task_name squadd", "task_name is 'squadd', which is not a task | the nearest is squad", main=TEACHER),
    option("--data_dir GOOD", "data_dir is set without task_name | name the GLUE task"),
    option("--doc_stride 7", "max_seq_length 14 leaves 7 | share doc_stride 7 | give a smaller", main=SQUAD),
    option("--max_seq_length 5", "leaves 0 tokens for the context | or a larger max_seq_length", main=SQUAD),
    option(
        "--load_best_model_at_end", "load_best_model_at_end needs evaluations | set eval_strategy and save_strategy"
    ),
    option("--load_best_model_at_end --save_strategy best", "needs evaluations during training | such as epoch"),
    option(
        "--load_best_model_at_end --eval_strategy epoch",
        "eval_strategy is epoch and save_strategy is steps: set them to the same value",
    ),
    option("--early_stopping_patience 1", "early_stopping_patience is set | Set load_best_model_at_end"),
    option(
        "--early_stopping_patience -1 --load_best_model_at_end --eval_strategy epoch --save_strategy epoch",
        "early_stopping_patience is -1",
        name="--early_stopping_patience -1",
    ),
    option("--student_init pretrained", "student_num_layers is set | as it is | teacher_layers or random"),
    option("--student_num_layers 5", "student_num_layers is 5 | has only 4 layers"),
    option("--student_num_layers none --student_layers 2,9", "student_layers is 2,9 | has layers 1 to 4"),
    option(
        "--student_layers two,four",
        "student_layers is 'two,four' | give first, first_and_last | such as 2,4,6",
    ),
    option(f"{RANDOM} [1]", "student_config is '[1]' | give a mapping", name="--student_config [1]"),
    option(
        f'{RANDOM} {{"hiden_size":8}}',
        "student_config contains hiden_size | is not a field",
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
    option(
        f'{RANDOM} {{"hidden_act":"rleu"}}',
        "student_config | there is no 'rleu'",
        name='--student_config {"hidden_act":"rleu"}',
    ),
    *(
        option(f"{RANDOM} {config}", words, name=f"--student_config {config}")
        for config, words in {
            '{"hidden_size":-8}': "student_config | -8",
            '{"hidden_size":[8]}': "student_config: hidden_size is [8] | expected int, got list",
            '{"num_attention_heads":0}': "student_config | num_attention_heads | 0",
            '{"num_hidden_layers":0}': "student_config: num_hidden_layers is 0 | give 1 or more",
            '{"id2label":3}': "student_config contains id2label | leave it out",
            '{"num_labels":"x"}': "student_config contains num_labels | leave it out",
            '{"dtype":"x"}': "student_config contains dtype | leave it out",
        }.items()
    ),
    *(  # of the teacher's layers: 32 wide, 2 heads, 64 neurons
        option(f"--student_config {config}", words, name=f"--student_config {config}, of the teacher")
        for config, words in {
            '{"hidden_size":33}': "student_config: hidden_size is 33 | the teacher's is 32 | give less",
            '{"hidden_size":20}': "hidden_size is 20 | not a multiple of the 16 | or num_attention_heads too",
            '{"hidden_size":16,"num_attention_heads":3}': "num_attention_heads is 3 | the teacher's is 2",
            '{"hidden_size":15,"num_attention_heads":2}': "15 dimensions | in 2 heads | divided evenly | give",
            '{"hidden_size":0}': "hidden_size is 0 | 1 or more",
            '{"hidden_size":1e2}': "hidden_size is 100.0 | give a whole number",
            '{"hidden_act":"relu"}': "contains hidden_act | only in its sizes | leave it out",
            '{"num_hidden_layers":1}': "contains num_hidden_layers | give student_num_layers",
        }.items()
    ),
    option("--resume_from_checkpoint HERE/nonesuch", "resume_from_checkpoint is | no complete checkpoint | name a"),
    option("--train_file ~nonesuch/train.tsv", "~nonesuch/train.tsv | give an existing"),
    option(
        "--teacher_model_name_or_path ~nonesuch/teacher", "~nonesuch/teacher is not a valid path | give an existing"
    ),
    option("--output_dir=~nonesuch/out", "~nonesuch/out is not a valid path", main=TEACHER),
    option("--teacher_cache_dir=~nonesuch/cache", "~nonesuch/cache is not a valid path"),
    option(f"--train_file {'x' * 300}.tsv", "xxx.tsv", name="--train_file xxx..."),
    option(f"--output_dir HERE/{'x' * 300}", "output_dir | xxx", name="--output_dir xxx..."),
    option(f"--teacher_model_name_or_path {'x' * 300}", "cannot load xxx", name="--teacher_model_name_or_path xxx..."),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
