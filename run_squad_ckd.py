"""Distill a teacher into a student that answers questions about a context, on SQuAD or your own questions.

    python run_squad_ckd.py recipes/squad_ckd.yaml
    accelerate launch run_squad_ckd.py recipes/squad_v2_ckd.yaml --learning_rate 3e-5 --seed 1

    python run_squad_ckd.py --train_file train.json --validation_file dev.json \\
        --teacher_model_name_or_path my-teacher --student_init teacher_layers --student_num_layers 3 \\
        --output_dir my-student --do_train --do_eval

The same command resumes an interrupted run. With alpha 0 and all weights 0 the student is fine-tuned without a
teacher. --help lists all options.
"""

from ckd_trainer.commands.squad import main
from ckd_trainer.utils.processes import destroy_process_group

if __name__ == "__main__":
    main()
    destroy_process_group()
