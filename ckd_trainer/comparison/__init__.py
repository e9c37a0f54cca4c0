"""`ckd-trainer compare`: methods and seeds under equal conditions, and which differences are real."""
