"""From Python too, student and teacher must read the same token ids."""

import pytest
from helpers.tiny import WORDS, save_tokenizer, tiny_model
from helpers.training import logs, trainer
from helpers.wrapping import PassesOn
from transformers import AutoTokenizer, DataCollatorWithPadding

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.utils.errors import InputError

OTHER_WORDS = [*WORDS[:3], "horse", *WORDS[4:]]  # as many, one of them another


def resized(count, **kwargs):
    model = tiny_model(**kwargs)
    model.resize_token_embeddings(count)
    return model


def make(folder, student=22, teacher=22, **kwargs):
    if isinstance(teacher, int):
        teacher = resized(teacher, seed=1)
    return trainer(DistillationTrainer, folder, resized(student, layers=2), teacher_model=teacher, **kwargs)


def tokenizer_of(folder, words=WORDS):
    save_tokenizer(folder, words)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def stored(tmp_path):
    """Returns a function that saves a teacher, with a tokenizer of these words if any, and loads it."""

    def store(words=WORDS, count=22):
        model, folder = resized(count, seed=1), tmp_path / "teacher"
        model.save_pretrained(folder)
        if words:
            save_tokenizer(folder, words)
        return type(model).from_pretrained(folder)

    return store


@pytest.mark.parametrize(("student", "teacher"), [(50_265, 4_000), (22, 27), (27, 22), (30_522, 30_527)])
def test_other_numbers_of_ids_are_refused(tmp_path, student, teacher):
    words = f"the teacher has embeddings for {teacher} token ids, the student for {student}, .*resize_token_embeddings"
    with pytest.raises(InputError, match=words):
        make(tmp_path, student, teacher)
    with pytest.raises(InputError, match=words):
        make(tmp_path, student, PassesOn(resized(teacher)))


@pytest.mark.parametrize(("student", "teacher"), [(22, 24), (24, 22), (22, 64), (22, 22), (30_522, 30_528)])
def test_rows_of_padding_do_no_harm(tmp_path, student, teacher):
    run = make(tmp_path, student, teacher)
    run.train()
    assert logs(run)[0]["loss_wr_angle"] > 0


def test_a_control_run_reads_no_teacher(tmp_path):
    make(tmp_path, 50_265, 4_000, ckd_args=CKDArguments.fine_tuning())


def test_an_id_that_means_another_word_is_refused(tmp_path, stored):
    """Of as many entries, found where the teacher's tokenizer lies beside it."""
    teacher, tokenizer = stored(OTHER_WORDS), tokenizer_of(tmp_path / "student")
    words = "1 ids differ, such as 8, which is 'horse' for the teacher and 'dog' for the student"
    for each in (teacher, PassesOn(teacher), StoredTeacher(str(tmp_path / "teacher"), teacher.config)):
        with pytest.raises(InputError, match=words):
            make(tmp_path / "out", teacher=each, processing_class=tokenizer)
    run = make(tmp_path / "out", teacher=teacher)  # nothing is known of the ids
    run.processing_class, run.data_collator = None, DataCollatorWithPadding(tokenizer)
    with pytest.raises(InputError, match=words):
        run._fit_to(run.model)


@pytest.mark.parametrize("words", [WORDS, None])
def test_the_same_tokenizer_or_none_beside_the_teacher(tmp_path, stored, words):
    make(tmp_path / "out", teacher=stored(words), processing_class=tokenizer_of(tmp_path / "student"))


def test_tokens_that_were_added_to_both(tmp_path, stored):
    """The teacher in memory has embeddings for them; the tokenizer beside its files does not know them."""
    tokenizer, teacher = tokenizer_of(tmp_path / "student", [*WORDS, "new", "newer"]), stored()
    with pytest.raises(InputError, match="the tokenizer has 24 entries, but the bert model has embeddings for 22"):
        make(tmp_path / "out", 24, teacher, processing_class=tokenizer)
    teacher.resize_token_embeddings(24)
    make(tmp_path / "out", 24, teacher, processing_class=tokenizer)


def test_sizes_may_differ_where_tokenizers_do_not(tmp_path, stored):
    make(tmp_path / "out", 23, stored(), processing_class=tokenizer_of(tmp_path / "student"))


def test_a_tokenizer_that_is_not_the_teachers_says_nothing(tmp_path, stored):
    """A teacher made of another's configuration bears the other's name."""
    teacher, tokenizer = resized(22, seed=1), tokenizer_of(tmp_path / "student")
    teacher.name_or_path = str(tmp_path / "teacher")
    stored([*reversed(WORDS), "more"], 23)
    make(tmp_path / "out", 22, teacher, processing_class=tokenizer)
