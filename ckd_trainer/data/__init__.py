"""Texts and labels: tables from files, the GLUE tasks, the demo task. Knows nothing of distillation."""
