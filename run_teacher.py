"""Fine-tune a pre-trained encoder on GLUE, SQuAD, named entities or your own data: the teacher.

    python run_teacher.py recipes/glue_rte_teacher.yaml
    accelerate launch run_teacher.py recipes/squad_teacher.yaml --learning_rate 3e-5 --seed 1

    python run_teacher.py --model_name_or_path google-bert/bert-base-uncased --train_file train.csv \\
        --validation_file dev.csv --text_column review --output_dir my-teacher --do_train --do_eval

    python run_teacher.py --task_name squad --model_name_or_path google-bert/bert-base-uncased \\
        --train_file train.json --validation_file dev.json --output_dir my-teacher --do_train --do_eval

    python run_teacher.py --task_name ner --model_name_or_path google-bert/bert-base-cased \\
        --train_file train.conll --validation_file dev.conll --output_dir my-teacher --do_train --do_eval

With task_name squad or squad_v2 it fine-tunes question answering, with ner named entities, else classification or
regression. The same command resumes an interrupted run. --help lists all options, and --task_name squad --help or
--task_name ner --help those of these tasks.
"""

from ckd_trainer.commands.teacher import main
from ckd_trainer.utils.processes import destroy_process_group

if __name__ == "__main__":
    main()
    destroy_process_group()
