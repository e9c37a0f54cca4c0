"""Distill a teacher into a student that finds named entities, in sentences of tokens or texts with spans of your own.

    python run_ner_ckd.py recipes/ner_conll2003_ckd.yaml
    accelerate launch run_ner_ckd.py recipes/ner_wnut17_ckd.yaml --learning_rate 3e-5 --seed 1

    python run_ner_ckd.py --train_file train.conll --validation_file dev.conll \\
        --teacher_model_name_or_path my-teacher --student_init teacher_layers --student_num_layers 3 \\
        --output_dir my-student --do_train --do_eval

The same command resumes an interrupted run. With alpha 0 and all weights 0 the student is fine-tuned without a
teacher. --help lists all options.
"""

from ckd_trainer.commands.ner import main
from ckd_trainer.utils.processes import destroy_process_group

if __name__ == "__main__":
    main()
    destroy_process_group()
