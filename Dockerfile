# openwork in a container, which by default runs the quickstart: docs/docker.md.
#
#   docker build --tag openwork .
#   docker build --tag openwork:cuda --build-arg VARIANT=cuda .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# Which build of torch: cpu or cuda. CUDA's libraries come with torch, so that both have the same base image.
ARG VARIANT=cpu
# Where torch comes from, if not from PyTorch's own index (cpu) or pip's (cuda).
ARG TORCH_INDEX=""

# torch.compile and openwork's CPU kernels compile C++, Triton compiles C.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/openwork
# torch before the sources: it is large, and they change more often.
COPY constraints.txt ./
RUN case "$VARIANT" in \
      cpu) index="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" ;; \
      cuda) index="$TORCH_INDEX" ;; \
      *) echo "VARIANT must be cpu or cuda, got '$VARIANT'" >&2; exit 1 ;; \
    esac \
 && pip install --no-cache-dir --constraint constraints.txt ${index:+--index-url "$index"} torch==2.13.0
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt ".[study,files,onnx]"

# No user of this number needs to exist, and --user may name another: what looks up a name or home finds these.
ENV USER=openwork HOME=/tmp OPENWORK_DATA=/data NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir --mode 777 /runs /data
WORKDIR /runs
USER 1000
ENTRYPOINT ["openwork"]
CMD ["quickstart", "--out", "quickstart"]
