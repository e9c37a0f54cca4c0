"""Script options that several tests use."""

STUDENT = ["--student_init", "teacher_layers", "--student_num_layers", "2"]
TWO_STEPS = "--do_train --do_eval --max_steps 2 --save_steps 1 --report_to none --disable_tqdm true".split()
TWO_STEPS += ["--output_dir"]  # the folder follows
