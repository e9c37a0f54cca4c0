"""Fine-tune a sequence classifier on a GLUE task, or on your own labelled texts: the teacher.

    python run_teacher.py recipes/glue_rte_teacher.yaml
    accelerate launch run_teacher.py recipes/glue_rte_teacher.yaml --learning_rate 3e-5 --seed 1

    python run_teacher.py --model_name_or_path google-bert/bert-base-uncased --train_file train.csv \\
        --validation_file dev.csv --text_column review --output_dir my-teacher --do_train --do_eval

The same command takes up an interrupted run. All options: --help.
"""

from transformers import TrainingArguments

from ckd_trainer.arguments import GlueArguments, ModelArguments, RunArguments
from ckd_trainer.errors import command_line
from ckd_trainer.recipe import parse_recipe
from ckd_trainer.text_classification import run_text_classification


@command_line
def main(argv):
    return run_text_classification(
        *parse_recipe((ModelArguments, GlueArguments, RunArguments, TrainingArguments), argv)
    )


if __name__ == "__main__":
    main()
