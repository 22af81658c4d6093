# The service's image; vLLM runs from its own. Targets: `cpu` (the last, so the default) and `gpu`.
#
#   docker build -t rankrag:0.1.0 .
#   docker build -t rankrag:0.1.0-gpu --target gpu .
#
# BASE may be a digest (`--build-arg BASE=python@sha256:…`) for builds that must be the same to the byte.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

# --- what is installed, with pip, which stays behind ---------------------------------------------------------
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
# Two environments: the one that is copied into the image has no pip.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/rankrag/venv
ENV PIP=/opt/build/bin/pip PIP_PYTHON=/opt/rankrag/venv/bin/python
WORKDIR /src
COPY requirements/ requirements/

FROM build AS build-cpu
# The CPU build of torch lies in an index of its own; empty: from wherever pip is configured to look.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    "$PIP" install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements/service.txt)" \
    && "$PIP" install --no-deps -r requirements/service.txt

FROM build AS build-gpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    grep -v '^faiss-cpu==' requirements/service.txt > /tmp/service.txt \
    && "$PIP" install "$(grep '^torch==' requirements/service.txt)" \
    && "$PIP" install --no-deps -r /tmp/service.txt -r requirements/faiss-gpu.txt

# --- what is run ---------------------------------------------------------------------------------------------
FROM ${BASE} AS base
# No pip and nothing that builds: whoever gets in finds no installer.
RUN rm -rf /usr/local/lib/python3.11/site-packages/pip* /usr/local/lib/python3.11/site-packages/setuptools* \
        /usr/local/lib/python3.11/site-packages/wheel* /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* \
    && groupadd --gid 10001 rankrag \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rankrag \
    && install -d -o 10001 -g 10001 /index
# All that is written goes to /tmp or to a volume: the root file system may be read-only.
ENV PATH=/opt/rankrag/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RANKRAG_HOST=0.0.0.0 \
    RANKRAG_ADMIN__HOST=0.0.0.0
WORKDIR /opt/rankrag
COPY models/demo/ models/demo/
COPY demo/ demo/
EXPOSE 8080 8081
USER 10001:10001
ENTRYPOINT ["rankrag"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('RANKRAG_ADMIN__PORT', '8081') + '/livez', timeout=2)"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rankrag" \
      org.opencontainers.image.description="One vLLM-hosted checkpoint reranks passages and answers from them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The code last: it changes most.
FROM build-cpu AS install-cpu
COPY pyproject.toml README.md ./
COPY service/ service/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    "$PIP" install --no-deps .
# Byte code, since the process can't write any. Some packages carry files that are no Python of this version.
RUN /opt/rankrag/venv/bin/python -m compileall -qq -j 0 /opt/rankrag/venv/lib || true

FROM build-gpu AS install-gpu
COPY pyproject.toml README.md ./
COPY service/ service/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    "$PIP" install --no-deps .
# Byte code, since the process can't write any. Some packages carry files that are no Python of this version.
RUN /opt/rankrag/venv/bin/python -m compileall -qq -j 0 /opt/rankrag/venv/lib || true

FROM base AS gpu
LABEL org.opencontainers.image.variant="gpu"
COPY --from=install-gpu /opt/rankrag/venv /opt/rankrag/venv

FROM base AS cpu
LABEL org.opencontainers.image.variant="cpu"
COPY --from=install-cpu /opt/rankrag/venv /opt/rankrag/venv
