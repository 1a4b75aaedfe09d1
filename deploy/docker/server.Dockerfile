# Triton for GPUs: TensorRT plans that are built on the GPU that runs them, and the presets for CPUs. Not verified on a GPU.
#   docker build -f deploy/docker/server.Dockerfile -t sparseinst/server .
# docs/docker.md tells how to run it. TRITON pins the release; add @sha256:... of the digest that your registry shows.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.10-py3

FROM ${TRITON} AS build
WORKDIR /source
COPY deploy/docker/build.lock deploy/docker/server.lock deploy/docker/
RUN python3 -m pip wheel --no-cache-dir --require-hashes --only-binary :all: --wheel-dir /wheels -r deploy/docker/server.lock \
    && python3 -m pip install --no-cache-dir --require-hashes --only-binary :all: --target /build -r deploy/docker/build.lock
COPY . .
RUN PYTHONPATH=/build python3 -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && deploy/docker/layout.sh /opt/sparseinst

FROM ${TRITON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SparseInst server" \
      org.opencontainers.image.description="Real-time instance segmentation by a Triton Inference Server, on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Into the image's own Python, because that is the one whose libraries Triton's Python backend is linked with.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,from=build,source=/source/deploy/docker/remove_compilers.sh,target=/remove_compilers.sh \
    python3 -m pip install --no-cache-dir --no-index --no-deps --ignore-installed --break-system-packages /wheels/*.whl \
    && sh /remove_compilers.sh
COPY --from=build /opt/sparseinst /opt/sparseinst
ENV PRESET=tensorrt \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
# A plan takes minutes to build; the probe sends a picture all the way through.
HEALTHCHECK --interval=10s --timeout=8s --start-period=30m --retries=3 \
    CMD ["python3", "/opt/sparseinst/probe.py", "http://127.0.0.1:8000", "http://127.0.0.1:8002/metrics"]
ENTRYPOINT ["/opt/sparseinst/run"]
