# A worker of walstream. Build:   docker build -t walstream .
#
#   router     docker run -e WALSTREAM_BROKERS=kafka:9092 -v ./config/namespaces:/etc/walstream:ro walstream
#   delivery   docker run -e WALSTREAM_TARGET=flights.base … walstream faust -A topologies.delivery worker
#   commands   docker run … walstream walstream check
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv /opt/walstream
ENV PATH=/opt/walstream/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# For the compiled part; without it walstream does the same, slower.
RUN command -v cc >/dev/null || \
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*)
# What walstream stands on changes seldom, so it is a layer of its own: an empty walstream brings it in.
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY walstream/wire/compiled.pyx walstream/wire/
RUN mkdir topologies && touch walstream/__init__.py topologies/__init__.py && \
    pip install --quiet -c constraints.txt . && pip uninstall --quiet --yes walstream && rm -r walstream topologies
COPY walstream walstream
COPY topologies topologies
RUN pip install --quiet --no-deps .

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --home-dir /var/lib/walstream --create-home walstream
COPY --from=build /opt/walstream /opt/walstream
ENV PATH=/opt/walstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WALSTREAM_CONFIG=/etc/walstream \
    WALSTREAM_DATADIR=/var/lib/walstream/data \
    WEB_PORT=6066
USER walstream
WORKDIR /var/lib/walstream
# State is rebuilt from its changelogs where the volume is lost; kept, a restart is quick.
RUN mkdir data
VOLUME /var/lib/walstream/data
EXPOSE 6066
# The worker itself knows whether it gets on: 503 when it is stuck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['WEB_PORT']}/health\", timeout=4)"]
# SIGTERM, Docker's own, is what a worker takes as the wish to finish its work and leave.
CMD ["faust", "-A", "topologies.router", "worker", "--loglevel", "info"]
