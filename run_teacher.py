"""Fine-tune a pre-trained encoder on GLUE, SQuAD or your own data: the teacher.

    python run_teacher.py recipes/glue_rte_teacher.yaml
    accelerate launch run_teacher.py recipes/squad_teacher.yaml --learning_rate 3e-5 --seed 1

    python run_teacher.py --model_name_or_path google-bert/bert-base-uncased --train_file train.csv \\
        --validation_file dev.csv --text_column review --output_dir my-teacher --do_train --do_eval

    python run_teacher.py --task_name squad --model_name_or_path google-bert/bert-base-uncased \\
        --train_file train.json --validation_file dev.json --output_dir my-teacher --do_train --do_eval

With task_name squad or squad_v2 it fine-tunes question answering, else classification or regression. The same command
takes up an interrupted run. All options: --help, and --task_name squad --help.
"""

from transformers import TrainingArguments

from ckd_trainer.arguments import GlueArguments, ModelArguments, RunArguments, SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.runs.recipe import parse_recipe, value_of
from ckd_trainer.tasks.question_answering import run_question_answering
from ckd_trainer.tasks.text_classification import run_text_classification
from ckd_trainer.utils.errors import command_line
from ckd_trainer.utils.processes import part


@command_line
def main(argv):
    if value_of("task_name", argv) in SQUAD_TASKS:
        run_task, data_arguments = run_question_answering, SquadArguments
    else:
        run_task, data_arguments = run_text_classification, GlueArguments
    return run_task(*parse_recipe((ModelArguments, data_arguments, RunArguments, TrainingArguments), argv))


if __name__ == "__main__":
    main()
    part()
