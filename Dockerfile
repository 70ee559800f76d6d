# syntax=docker/dockerfile:1
# The demo in a container, on a CPU by default; docs/install.md says how to build it for a GPU.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 swin \
    && install --directory --owner=swin /home/swin/swin-pos-det

# For CUDA, the compute capabilities to build mmcv's operators for: no device is visible during a build.
ARG TORCH_CUDA_ARCH_LIST=""
ARG TORCH_SPEC=""
ENV TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} TORCH_SPEC=${TORCH_SPEC} PIP_NO_CACHE_DIR=1

USER 10001
WORKDIR /home/swin/swin-pos-det
COPY --chown=10001 . .
# mmcv's wheel is kept between builds.
RUN --mount=type=cache,target=/tmp/wheels,uid=10001 SWIN_POS_DET_CACHE=/tmp/wheels make setup

CMD ["make", "demo"]
