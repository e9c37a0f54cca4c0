"""Script options that several tests use."""

# Leaves out what takes most of the time of a run of a few steps: the gradients of relations, measured before steps 1,
# 2, 4 and 8, and the teacher's answers to a sample in batches of 8. For tests that are not about terms or batches.
SHORT_RUN = [f"--{relation}_{kind}_weight=0" for relation in ("wr", "ltr") for kind in ("distance", "angle")]
SHORT_RUN += ["--per_device_eval_batch_size=32"]

STUDENT = ["--student_init", "teacher_layers", "--student_num_layers", "2"]
TWO_STEPS = "--do_train --do_eval --max_steps 2 --save_steps 1 --report_to none --disable_tqdm true".split()
TWO_STEPS += ["--output_dir"]  # the folder follows
