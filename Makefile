# make quickstart      a teacher and students that learn in four ways, compared in a table and a picture
# make quickstart-qa   the same for question answering
# make quickstart-ner  the same for names, dates and addresses in sentences
# make quickstart-mlm  a small language model, distilled before it is fine-tuned with few labels
# make quickstart-dynamic  six students in one, and the fastest of them that is good enough
# make test            the tests, but for variants of slow ones
# make test-all        all tests
# make test-lowest     the tests with the oldest versions that setup.cfg allows, with Python 3.10 if it is installed
# make lint            the linters and the types
# make clean           removes the environments, builds and caches; outputs of runs stay
#
# The first use creates .venv and installs the project with the versions pinned in constraints.txt. PYTHON selects the
# interpreter (3.10 or newer): make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CKD := $(VENV)/bin/ckd-trainer
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest
# pyenv installs more versions than it adds to the PATH.
LOWEST_PYTHON ?= $(shell for python in python3.10 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.10.*/bin/python3.10; do \
    $$python -c "" 2>/dev/null && echo $$python && exit; done; echo $(PYTHON))

SENTENCE := The poets opposite the boy truly and still succeed.

# Idle workers take tests from busy ones: some tests take seconds, others a minute.
ALL_CORES := --numprocesses auto --dist worksteal

.PHONY: help quickstart quickstart-qa quickstart-ner quickstart-mlm quickstart-dynamic test test-all test-lowest lint clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# pip is installed last into a new environment: if it is missing, the environment is incomplete and is recreated.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": give another one with PYTHON=python3.12")'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install -e '.[test,plots,onnx]' -c constraints.txt
	touch $@

# Pins each `name>=1.2` of setup.cfg to `name==1.2`. Their own dependencies are the newest that fit.
$(LOWEST)/.installed: setup.cfg pyproject.toml
	test -x $(LOWEST)/bin/pip || $(LOWEST_PYTHON) -m venv --clear $(LOWEST)
	sed -n 's/^    \(.*\)>=/\1==/p' setup.cfg > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install -e '.[test,plots]' -c $(LOWEST)/constraints.txt
	touch $@

quickstart: $(INSTALLED)
	$(CKD) demo agreement runs/quickstart/data
	$(CKD) teacher recipes/quickstart_teacher.yaml
	$(CKD) compare recipes/quickstart_ckd.yaml --methods fine_tuned logits ckd gram --seeds 1 2 3 --jobs 2 \
	    --output runs/quickstart/compare

quickstart-qa: $(INSTALLED)
	$(CKD) demo reading runs/quickstart_qa/data
	$(CKD) teacher recipes/quickstart_qa_teacher.yaml
	$(CKD) compare recipes/quickstart_qa_ckd.yaml --methods fine_tuned logits ckd gram --seeds 42 \
	    --output runs/quickstart_qa/compare

quickstart-ner: $(INSTALLED)
	$(CKD) demo entities runs/quickstart_ner/data
	$(CKD) teacher recipes/quickstart_ner_teacher.yaml
	$(CKD) compare recipes/quickstart_ner_ckd.yaml --methods fine_tuned logits ckd --seeds 1 2 3 --jobs 2 \
	    --output runs/quickstart_ner/compare

quickstart-mlm: $(INSTALLED)
	$(CKD) demo agreement runs/quickstart_mlm/data
	$(CKD) mlm recipes/quickstart_mlm_teacher.yaml
	export OMP_NUM_THREADS=1; $(CKD) mlm recipes/quickstart_mlm_ckd.yaml --disable_tqdm true & \
	    $(CKD) mlm recipes/quickstart_mlm_ckd.yaml --output_dir runs/quickstart_mlm/logits --wr_distance_weight 0 && wait $$!
	$(CKD) compare recipes/quickstart_mlm_task.yaml --methods recipes/quickstart_mlm_starts.yaml \
	    --baseline from_scratch --seeds 1 2 3 --jobs 2 --output runs/quickstart_mlm/compare

quickstart-dynamic: $(INSTALLED)
	$(CKD) demo agreement runs/quickstart/data
	$(CKD) teacher recipes/quickstart_teacher.yaml
	$(CKD) glue recipes/quickstart_dynamic.yaml
	rm -rf runs/quickstart_dynamic/best
	$(CKD) search runs/quickstart_dynamic/student --metric accuracy --min_score 0.97 --threads 1 \
	    --output runs/quickstart_dynamic/best
	$(RUN) -c 'import transformers; model = "runs/quickstart_dynamic/best/model"; \
	    print(transformers.pipeline("text-classification", model)("$(SENTENCE)"))'

test: $(INSTALLED)
	$(RUN) -m pytest $(ALL_CORES) --durations 20 --durations-min 5

test-all: $(INSTALLED)
	HYPOTHESIS_TIMES=4 $(RUN) -m pytest $(ALL_CORES) -m ""

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(ALL_CORES)

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy ckd_trainer

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
