# A small Triton for CPUs, to develop and to test with: the server inside the wheel nvidia-pytriton (2.51, a twentieth of
# the size of NVIDIA's image). On CPUs in production run the server image with PRESET=cpu: its Triton is current.
#   docker build -f deploy/docker/cpu.Dockerfile -t sparseinst/cpu .
ARG DEBIAN=debian:12-slim

FROM ${DEBIAN} AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sparseinst/python && python3 -m venv /build
WORKDIR /source
COPY deploy/docker/build.lock deploy/docker/cpu.lock deploy/docker/triton.lock deploy/docker/
RUN /opt/sparseinst/python/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/docker/cpu.lock \
    && /opt/sparseinst/python/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --no-deps -r deploy/docker/triton.lock \
    && /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/docker/build.lock
COPY . .
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/sparseinst/python/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && deploy/docker/layout.sh /opt/sparseinst \
    && deploy/docker/triton_from_wheel.sh /opt/sparseinst \
    && /opt/sparseinst/python/bin/pip uninstall --yes setuptools pip

FROM ${DEBIAN}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SparseInst server for CPUs" \
      org.opencontainers.image.description="Real-time instance segmentation by a Triton Inference Server, on CPUs, for development" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN --mount=type=bind,from=build,source=/source/deploy/docker/remove_compilers.sh,target=/remove_compilers.sh \
    apt-get update && apt-get install -y --no-install-recommends python3 libpython3.11 && rm -rf /var/lib/apt/lists/* \
    && sh /remove_compilers.sh \
    && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin sparseinst
COPY --from=build /opt/sparseinst /opt/sparseinst
ENV PATH=/opt/sparseinst/bin:/opt/sparseinst/python/bin:/usr/local/bin:/usr/bin:/bin \
    PRESET=cpu \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=8s --start-period=2m --retries=3 \
    CMD ["python3", "/opt/sparseinst/probe.py", "http://127.0.0.1:8000", "http://127.0.0.1:8002/metrics"]
ENTRYPOINT ["/opt/sparseinst/run"]
