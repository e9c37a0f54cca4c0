"""run_glue_ckd.py with small cache parts, so that a few examples are enough for several processes."""

import ckd_trainer.teacher.writer
import run_glue_ckd

ckd_trainer.teacher.writer._PART_ROWS = 20
run_glue_ckd.main()
