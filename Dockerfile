# The environment of requirements.lock, without the workflow: for jobs, docs/containers.md.
#
#   docker build --tag gigaseg .
#   docker build --tag gigaseg --build-arg TORCH=cpu .      without the CUDA packages

FROM python:3.11-slim

LABEL org.opencontainers.image.title="gigaseg" \
      org.opencontainers.image.description="What the jobs of the gigaseg workflow need, at tested versions" \
      org.opencontainers.image.licenses="BSD-3-Clause"

ARG TORCH=default
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu

COPY requirements.lock /opt/gigaseg/requirements.lock
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-cache-dir --no-deps --index-url "$CPU_INDEX" \
            "$(grep '^torch==' /opt/gigaseg/requirements.lock)"; \
    fi && \
    pip install --no-cache-dir -r /opt/gigaseg/requirements.lock

# The workflow is mounted, and belongs to whoever runs it.
RUN useradd --create-home gigaseg
USER gigaseg
WORKDIR /home/gigaseg

CMD ["python", "--version"]
