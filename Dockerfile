# Two images from one file: `api` (no torch) and `worker` (torch; compilers, of C for Triton's kernels on GPUs, of C++ for torch.compile on CPUs).
#   docker build --target api -t permafrost-api .
#   docker build --target worker -t permafrost-worker .
# Build arguments for networks with their own package mirror: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_CERT.

FROM debian:bookworm-slim AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/permafrost --create-home permafrost
ENV PATH=/opt/permafrost/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PERMAFROST_DATA_DIR=/var/lib/permafrost

# Dependencies come before the code, so that a change of code does not install them again.
FROM python AS api-dependencies
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
RUN apt-get update && apt-get install -y --no-install-recommends binutils python3-venv
WORKDIR /build
COPY pyproject.toml requirements.lock ./
RUN python3 -m venv /opt/permafrost \
 && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['s3'], *p['optional-dependencies']['otel'], sep='\n')" > api.txt \
 && pip install --no-cache-dir -c requirements.lock -r api.txt

FROM api-dependencies AS worker-dependencies
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
RUN python -c "import tomllib; e = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; print(*e['worker'], *e['quant'], sep='\n')" > worker.txt \
 && pip install --no-cache-dir -c requirements.lock "$(grep '^torch==' requirements.lock)" \
 && pip install --no-cache-dir -c requirements.lock -r worker.txt

# The guide's generator stays out of the images; what it wrote is a part of the API's package.
FROM api-dependencies AS guide
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
RUN pip install --no-cache-dir -c requirements.lock "$(grep '^zensical==' requirements.lock)"
COPY . .
RUN python -m tools.guide

FROM api-dependencies AS api-build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
COPY . .
COPY --from=guide /build/app/guide/built app/guide/built
# What nothing here reads goes: Celery's interactive shell, pip itself, and what tools/api_image.py names.
RUN pip install --no-cache-dir --no-deps . \
 && pip uninstall --quiet --yes click-repl prompt_toolkit wcwidth setuptools pip \
 && python -m tools.api_image /opt/permafrost/lib/python3*/site-packages

FROM worker-dependencies AS worker-build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
COPY . .
RUN pip install --no-cache-dir --no-deps .

FROM python AS api
COPY --from=api-build /opt/permafrost /opt/permafrost
USER permafrost
WORKDIR /var/lib/permafrost
VOLUME /var/lib/permafrost
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"PERMAFROST_PORT\", \"8000\")}/readyz', timeout=4)"]
ENTRYPOINT ["permafrost"]
CMD ["serve", "--no-worker"]

FROM python AS worker
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ gcc libc6-dev python3-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=worker-build /opt/permafrost /opt/permafrost
USER permafrost
WORKDIR /var/lib/permafrost
VOLUME /var/lib/permafrost
STOPSIGNAL SIGTERM
ENTRYPOINT ["permafrost"]
CMD ["worker"]
