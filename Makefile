# Verbs only: what each one does is a short script in ci/. Environments are built on first use and skipped afterwards.
#
#   ARGS     arguments of train, export, serve, test and bench:  make train ARGS="--recipe compact --annotations ..."
#   MODEL    folder with model.onnx and contract.json that demo, serve and bench serve
#   PRESET   which of its engines: cpu, or cpu-int8 where the folder has model.int8.onnx; cpu-throughput and
#            cpu-int8-throughput for many clients at once
#   PICTURE  what demo segments
#   HTTP_PORT, GRPC_PORT, METRICS_PORT   of serve; 0 takes a free one
#   WEB_PORT of the page that web serves; SPARSEINST_URL names a server for it, in place of one of its own
#   PYTHON   interpreter that setup builds the environments from
export MODEL ?= assets/models/animals
export PRESET ?= cpu
export PICTURE ?= assets/scenes/images/scene_01.jpg
export HTTP_PORT ?= 8000
export GRPC_PORT ?= 8001
export METRICS_PORT ?= 8002
export WEB_PORT ?= 8080
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check-deploy docs serve web train export bench soak bench-settings bench-peers fuzz audit sbom clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16
	@sed -n 's/^#   /  /p' Makefile

setup: ## build both environments: .venv (everything, with torch) and .venv-serve (the local Triton, no torch)
	@ci/setup.sh all

demo: ## segment a picture with a real Triton Inference Server; draws build/demo/overlay.png
	@ci/setup.sh serve
	@ci/demo.sh

test: ## run the tests, those against a real server included
	@ci/setup.sh all
	@ci/test.sh $(ARGS)

lint: ## check style, types and shell scripts
	@ci/setup.sh train
	@ci/lint.sh

check-deploy: ## check charts, manifests, alerts, dashboard and Dockerfiles, without a cluster
	@ci/setup.sh all
	@ci/install_deploy_tools.sh
	@ci/check_deploy.sh

docs: ## build the site of the documentation into build/site; broken links fail it
	@ci/setup.sh docs
	@ci/docs.sh

serve: ## serve the model on this machine until Ctrl-C
	@ci/setup.sh serve
	@ci/serve.sh $(ARGS)

web: ## segment pictures in the browser: serves a page until Ctrl-C
	@ci/setup.sh serve
	@ci/web.sh $(ARGS)

train: ## train on a COCO dataset; without ARGS it shows how
	@ci/setup.sh train
	@.venv/bin/sparseinst train $(or $(ARGS),--help)

export: ## turn weights into ONNX and a model repository; without ARGS it shows how
	@ci/setup.sh train
	@.venv/bin/sparseinst-export $(or $(ARGS),--help)

bench: ## measure the served model under load: latency, throughput, the highest rate that holds
	@ci/setup.sh serve
	@ci/bench.sh $(ARGS)

soak: ## ten minutes of load, and whether memory or descriptors creep up; two hours: ARGS="--minutes 120"
	@ci/setup.sh serve
	@ci/repository.sh
	@.venv-serve/bin/python ci/soak.py $(ARGS)

bench-settings: ## measure batching settings with a stand-in for a GPU's engine
	@ci/setup.sh serve
	@ci/install_perf_analyzer.sh
	@.venv-serve/bin/python ci/bench_settings.py $(ARGS)

bench-peers: ## compare what is served with plain PyTorch and other segmenters, in turn on this machine
	@ci/setup.sh all
	@ci/bench_peers.sh $(ARGS)

fuzz: ## throw thousands of hostile inputs at decoding, contract, replies and a real server; says seed and counts
	@ci/setup.sh all
	@ci/fuzz.sh $(ARGS)

audit: ## look what is installed up among known vulnerabilities (wants the network)
	@ci/setup.sh all
	@ci/audit.sh

sbom: ## write build/sbom: what is installed in both environments and in the images, as CycloneDX
	@ci/setup.sh all
	@ci/sbom.sh

clean: ## remove build/ and caches (the environments stay; to remove them: rm -r .venv .venv-serve)
	@ci/clean.sh
