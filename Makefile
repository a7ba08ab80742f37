# The one door. Each target sets up what it needs; only Python 3.11 (with venv) and make are assumed.

PYTHON ?= python3.11
PORT ?= 3000
BUNDLE ?=
FRAME ?=
OUT ?= out
RECIPE ?= training/recipes/default.toml
RUN ?= runs/$(basename $(notdir $(RECIPE)))
STORE ?= $(RUN)/store
VERSION ?= 0.1.0
LOAD ?=
BENCH ?=
SOAK ?=
FUZZ_SECONDS ?= 600

BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
ifneq ($(BUNDLE),)
export LYNCEUS_BUNDLE := $(BUNDLE)
endif
export BENTOML_DO_NOT_TRACK := True

.PHONY: help setup demo serve test lint format bench load soak observability audit bento train deep rival training-demo evaluate clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make the virtual environment

$(READY): requirements.txt pyproject.toml
	@echo "== setting up .venv (torch is large: a few minutes on a slow line) =="
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet -r requirements.txt
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

demo: $(READY) ## start the service, POST a frame (FRAME=path or a simulated one), draw what it found
	@$(PY) -m examples.demo --out $(OUT) $(if $(FRAME),--frame "$(FRAME)")

serve: $(READY) ## keep the service up (PORT=3000, BUNDLE=path)
	@exec $(PY) -m service --port $(PORT)

test: $(READY) ## run all tests
	@echo "== tests =="
	@$(PY) -m pytest -n 2 --dist loadgroup -q

lint: $(READY) ## format check, lint, types, import contracts
	@echo "== ruff ==" && $(BIN)/ruff format --check . && $(BIN)/ruff check .
	@echo "== mypy ==" && $(BIN)/mypy
	@echo "== imports ==" && PYTHONPATH=. $(BIN)/lint-imports

format: $(READY) ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(READY) ## time stages, detector, service, clients and starts beside their rivals (BENCH="--only detector,growth --rounds 9")
	@$(PY) -m tests.bench $(BENCH)

observability: $(READY) ## write Grafana's dashboard and the PrometheusRule anew; check and test the rules if promtool is there
	@$(PY) deploy/observability/render.py
	@if command -v promtool >/dev/null; then cd deploy/observability && promtool check config prometheus.yml \
		&& promtool test rules rules.test.yaml rules-nights.test.yaml; else echo "no promtool: the rules were not checked"; fi

load: $(READY) ## drive a server of its own, on this machine alone, with up to twice what it bears (LOAD="--seconds 300")
	@$(PY) -m tests.load $(LOAD)

soak: $(READY) ## the long fault suite: kills, stops, stuck, memory, disk, clients that dribble, leaks, fuzzing (half an hour)
	@$(PY) -m tests.soak $(SOAK)
	@$(PY) -m tests.soak.fuzz_fits --seconds $(FUZZ_SECONDS)

audit: $(READY) ## look the pinned dependencies up in a database of vulnerabilities (OSV=url)
	@$(PY) -m tests.audit $(if $(OSV),--osv "$(OSV)")

bento: $(READY) ## build the Bento, serve it, POST a frame to it, stop it
	@$(PY) -m examples.bento

train: $(READY) ## simulate, train, publish (RECIPE=path, RUN=folder, STORE=folder, VERSION=0.1.0); goes on where it stopped
	@$(PY) -m training simulate $(RECIPE) --run $(RUN)
	@$(PY) -m training train $(RECIPE) --run $(RUN)
	@$(PY) -m training publish $(RECIPE) --run $(RUN) --store $(STORE) --version $(VERSION)

deep: ## make the default bundle again, from the one before it: two hours of a CPU thread; goes on where it stopped
	@$(MAKE) train RECIPE=training/recipes/longer.toml RUN=runs/longer VERSION=0.4.0

rival: $(READY) ## score the bundle on every scene beside SExtractor at its best (BUNDLE=path)
	@$(PY) -m training rival $(BUNDLE)

WALK := $(OUT)/training-demo
TRANSFER := training/recipes/transfer.toml
TRUTH := $(WALK)/archive/truth

training-demo: $(READY) ## a simulated archive of 30 frames to a published version: curate, tile, train, score, publish
	@echo "== an archive of 30 exposures, as Joan Oro's pipeline leaves it ==" && $(PY) -m training archive $(WALK)/archive --frames 30
	@echo "== curation ==" && $(PY) -m training curate $(WALK)/archive --out $(WALK)/dataset
	@echo "== tiles ==" && $(PY) -m training tile $(TRANSFER) $(WALK)/dataset --out $(WALK)/tiles
	@echo "== training, from the shipped version ==" && $(PY) -m training train $(TRANSFER) --tiles $(WALK)/tiles --run $(WALK)/run
	@echo "== threshold, scores, publication ==" && rm -rf $(WALK)/store && $(PY) -m training publish $(TRANSFER) \
		--tiles $(WALK)/tiles --dataset $(WALK)/dataset --truth $(TRUTH) --run $(WALK)/run --store $(WALK)/store
	@cat $(WALK)/store/joan-oro/0.1.0/card.md
	@echo "== the shipped version on the same exposures, as anyone scores a version on an archive ==" && $(PY) -m training evaluate \
		--dataset $(WALK)/dataset --tiles $(WALK)/tiles --truth $(TRUTH) --out $(WALK)/report --no-rivals
	@echo "look at $(WALK)/dataset/contact_sheet.html and $(WALK)/run/report/report.html"

evaluate: $(READY) ## score the bundle on the recipe's validation frames, beside its rivals
	@$(PY) -m training simulate $(RECIPE) --run $(RUN)
	@$(PY) -m training evaluate $(BUNDLE) --scenes $(RUN)/validation --tuned-on $(RUN)/tuning --out $(RUN)/report

clean: ## remove what the targets made, the environment too
	rm -rf .venv out .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .bentoml
