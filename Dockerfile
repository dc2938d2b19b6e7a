# syntax=docker/dockerfile:1
# detframe on PyTorch for NVIDIA GPUs, or, with VARIANT=cpu, for processors alone:
#   docker build -t detframe:cuda .
#   docker build -t detframe:cpu --build-arg VARIANT=cpu .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/data:ro" -v "$PWD/runs:/work" detframe:cuda \
#       detframe train --data /data/cars OUTPUT_DIR /work/cars
# --build-arg EXTRAS="[remote,loggers]" adds extras of pyproject.toml.
ARG PYTHON=3.12
ARG VARIANT=cuda

FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/detframe \
    PATH=/opt/detframe/bin:$PATH
RUN python -m venv /opt/detframe

# PyTorch changes seldom and is large: a layer of its own, below the code
FROM base AS torch-cpu
ARG TORCH=2.14.1 TORCHVISION=0.29.1
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install "torch==${TORCH}" "torchvision==${TORCHVISION}" --index-url https://download.pytorch.org/whl/cpu

# The wheels of PyPI bring CUDA's libraries along; the host needs NVIDIA's driver and container toolkit
FROM base AS torch-cuda
ARG TORCH=2.14.1 TORCHVISION=0.29.1
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install "torch==${TORCH}" "torchvision==${TORCHVISION}"

FROM base AS wheel
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels .

# hadolint ignore=DL3006
FROM torch-${VARIANT} AS detframe
ARG EXTRAS=""
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install "$(echo /wheels/detframe-*.whl)${EXTRAS}" \
    && useradd --create-home --uid 1000 detframe \
    && install --directory --owner=detframe --group=detframe /work
USER 1000:1000
WORKDIR /work
CMD ["detframe", "--help"]
