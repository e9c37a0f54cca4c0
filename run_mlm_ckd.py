"""Distill a language model into a small general-purpose encoder, on running text.

    python run_mlm_ckd.py recipes/mlm_ckd.yaml
    accelerate launch run_mlm_ckd.py recipes/mlm_ckd.yaml --max_steps 100000

    python run_mlm_ckd.py --train_file corpus.txt --validation_share 0.01 \\
        --teacher_model_name_or_path google-bert/bert-base-uncased --student_init teacher_layers \\
        --student_num_layers 6 --output_dir my-encoder --do_train --do_eval --max_steps 10000

The result loads with AutoModel and AutoModelForMaskedLM, and is a start for run_teacher.py and the other scripts:
--model_name_or_path my-encoder. The same command resumes an interrupted run. --help lists all options.
"""

from ckd_trainer.commands.mlm import main
from ckd_trainer.utils.processes import destroy_process_group

if __name__ == "__main__":
    main()
    destroy_process_group()
