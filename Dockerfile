# The framework in an image, for CPUs or for NVIDIA GPUs, with the versions of constraints.txt:
#
#   docker build --target cpu -t shared-diff:cpu .
#   docker build --target cuda -t shared-diff:cuda .
#   docker run --shm-size 2g shared-diff:cpu                 trains, exports and evaluates the small model
#   docker run --shm-size 2g shared-diff:cpu make test       proves the rest
#   docker run --gpus all --ipc host -v /data:/data shared-diff:cuda \
#       python -m launch local --config configs/shared_diff_830m.yaml --run-dir /data/runs/first \
#       --data.train '[{path: /data/corpora/mine/train}]' --data.validation /data/corpora/mine/validation
#
# --build-arg EXTRAS=gpu adds flash-attn and Liger's kernels, compiled for an hour; --build-arg PIP_EXTRA_INDEX_URL=... leads
# the CPU image to PyTorch's builds without CUDA, which are a tenth as large.

ARG PYTHON=3.12
ARG CUDA=13.0.1

FROM python:${PYTHON}-slim-bookworm AS cpu
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home trainer && mkdir /framework && chown trainer /framework
USER trainer
WORKDIR /framework
COPY --chown=trainer . .
RUN make setup
ENV PATH=/framework/.venv/bin:$PATH
CMD ["make", "pretrain"]

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS cuda
ARG EXTRAS=
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home trainer && mkdir /framework && chown trainer /framework
USER trainer
WORKDIR /framework
COPY --chown=trainer . .
RUN make setup
RUN test -z "$EXTRAS" || .venv/bin/pip install --no-build-isolation -c constraints.txt -e ".[$EXTRAS]"
ENV PATH=/framework/.venv/bin:$PATH
CMD ["make", "pretrain"]
