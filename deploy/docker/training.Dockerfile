# Training, on one GPU or many: torchrun runs what follows. CUDA comes with torch; the machine needs NVIDIA's driver and
# container toolkit. Not verified on a GPU.
#   docker build -f deploy/docker/training.Dockerfile -t sparseinst/training .
ARG DEBIAN=debian:12-slim

FROM ${DEBIAN} AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sparseinst/python && python3 -m venv /build
WORKDIR /source
COPY deploy/docker/build.lock deploy/docker/training.lock deploy/docker/
RUN /opt/sparseinst/python/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/docker/training.lock \
    && /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/docker/build.lock
COPY . .
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/sparseinst/python/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && /opt/sparseinst/python/bin/pip uninstall --yes pip

FROM ${DEBIAN}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SparseInst training" \
      org.opencontainers.image.description="Training of SparseInst by torchrun" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN --mount=type=bind,from=build,source=/source/deploy/docker/remove_compilers.sh,target=/remove_compilers.sh \
    apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
    && sh /remove_compilers.sh \
    && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin sparseinst
COPY --from=build /opt/sparseinst /opt/sparseinst
ENV PATH=/opt/sparseinst/python/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
# A job ends by itself, and its exit status says how.
HEALTHCHECK NONE
ENTRYPOINT ["torchrun"]
CMD ["--standalone", "--nproc-per-node=1", "-m", "sparseinst", "train", "--help"]
