"""run_glue_ckd.py with small cache parts, so that a few examples are work for several processes."""

import ckd_trainer.signal_writer
import run_glue_ckd

ckd_trainer.signal_writer._PART_ROWS = 20
run_glue_ckd.main()
