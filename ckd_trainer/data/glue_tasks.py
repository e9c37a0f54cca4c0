"""The table of GLUE tasks: names on the Hub and in the classic files, and metrics."""

from dataclasses import dataclass, field

_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class GlueTask:
    """A GLUE task: its names on the Hub, its columns and labels in the classic files, its metrics.

    Validation and test sets have keys: "" for the only or first one, "mismatched" for MNLI's second. `file_labels`
    are the labels as the classic files and the GLUE server write them, in the order of `label_names` (the Hub's
    order). Both are None if the label is a score.
    """

    name: str  # the configuration of nyu-mll/glue
    folder: str
    label_names: tuple[str, ...] | None
    file_labels: tuple[str, ...] | None = ("0", "1")
    text_columns: tuple[str, ...] = ("sentence1", "sentence2")
    file_text_columns: tuple[str, ...] | None = None  # None: as on the Hub
    file_label_column: str = "label"
    file_columns: tuple[str, ...] | None = None  # of labeled files without a header line
    quoting: str = "auto"  # of the files, as `split_rows` takes it
    skip_short: bool = False  # rows with too few fields, of labeled files
    metrics: tuple[str, ...] = ("accuracy",)
    best_metric: str = "accuracy"
    # key -> split on the Hub, file in the folder
    validation: dict[str, tuple[str, str]] = field(default_factory=lambda: {"": ("validation", "dev.tsv")})
    test: dict[str, tuple[str, str]] = field(default_factory=lambda: {"": ("test", "test.tsv")})

    @property
    def submission(self) -> dict[str, str]:
        """The names of the prediction files that the GLUE server takes, by the key of the test set."""
        if self.name == "mnli":
            return {"": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}
        return {"": f"{self.folder}.tsv"}


_TASKS = (
    GlueTask(
        "cola",
        "CoLA",
        ("unacceptable", "acceptable"),
        text_columns=("sentence",),
        file_columns=("source", "label", "original mark", "sentence"),
        metrics=("matthews_correlation",),
        best_metric="matthews_correlation",
    ),
    GlueTask("sst2", "SST-2", ("negative", "positive"), text_columns=("sentence",)),
    GlueTask(
        "mrpc",
        "MRPC",
        ("not_equivalent", "equivalent"),
        file_text_columns=("#1 String", "#2 String"),
        file_label_column="Quality",
        metrics=("accuracy", "f1"),
        best_metric="f1",  # as in the published CKD results
    ),
    GlueTask(
        "qqp",
        "QQP",
        ("not_duplicate", "duplicate"),
        text_columns=("question1", "question2"),
        file_label_column="is_duplicate",
        quoting="none",  # the official files are quoted as in csv, but GLUE counts those quotes as text
        skip_short=True,  # so do the readers of GLUE with rows that have a line break in quotes
        metrics=("accuracy", "f1"),  # accuracy is best_metric, as in the published CKD results
    ),
    GlueTask(
        "stsb",
        "STS-B",
        None,
        file_labels=None,
        file_label_column="score",
        metrics=("pearson", "spearmanr", "rmse"),
        best_metric="pearson",
    ),
    GlueTask(
        "mnli",
        "MNLI",
        _NLI,
        file_labels=_NLI,
        text_columns=("premise", "hypothesis"),
        file_text_columns=("sentence1", "sentence2"),
        file_label_column="gold_label",
        validation={
            "": ("validation_matched", "dev_matched.tsv"),
            "mismatched": ("validation_mismatched", "dev_mismatched.tsv"),
        },
        test={"": ("test_matched", "test_matched.tsv"), "mismatched": ("test_mismatched", "test_mismatched.tsv")},
    ),
    GlueTask("qnli", "QNLI", _ENTAILMENT, file_labels=_ENTAILMENT, text_columns=("question", "sentence")),
    GlueTask("rte", "RTE", _ENTAILMENT, file_labels=_ENTAILMENT),
    GlueTask("wnli", "WNLI", ("not_entailment", "entailment")),
)
GLUE_TASKS = {task.name: task for task in _TASKS}
