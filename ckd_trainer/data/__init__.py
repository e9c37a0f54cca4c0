"""Texts and labels: tables from files, the GLUE tasks, the embedded task. Knows nothing of distillation."""
