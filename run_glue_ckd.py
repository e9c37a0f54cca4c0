"""Distill a teacher into a student on a GLUE task or on your own labeled texts.

    python run_glue_ckd.py recipes/glue_rte_ckd.yaml
    accelerate launch run_glue_ckd.py recipes/glue_rte_ckd.yaml --learning_rate 3e-5 --seed 1

    python run_glue_ckd.py --train_file train.csv --validation_file dev.csv --text_column review \\
        --teacher_model_name_or_path my-teacher --student_init teacher_layers --student_num_layers 3 \\
        --output_dir my-student --do_train --do_eval

    python run_glue_ckd.py --dataset_name stanfordnlp/imdb --validation_split_name test \\
        --teacher_model_name_or_path my-teacher --student_init teacher_layers --student_num_layers 3 \\
        --output_dir my-student --do_train --do_eval

The same command resumes an interrupted run. With alpha 0 and all weights 0 the student is fine-tuned without a
teacher. --help lists all options.
"""

from ckd_trainer.commands.glue import main
from ckd_trainer.utils.processes import destroy_process_group

if __name__ == "__main__":
    main()
    destroy_process_group()
