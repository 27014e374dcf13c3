# One image for every role. Build it by scripts/build-image, or by `docker build --target TARGET .`; BuildKit is needed.
#
#   runtime      every role, models in TFLite; no TensorFlow. What `docker build .` makes.
#   tensorflow   the same, and models in Keras and SavedModel
#   test         runs the test suite while it is built
#
# Two secrets may be given, which no layer keeps: pip_conf, where packages come from a mirror, and ca_bundle, where the
# network signs TLS itself.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/model-server/bin:${PATH}

FROM base AS builder
# pip gets an environment of its own and installs into the other: a running server needs no installer.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/model-server
ENV PATH=/opt/pip/bin:${PATH} \
    PIP_PYTHON=/opt/model-server/bin/python \
    PIP_CONSTRAINT=/build/dependencies/constraints.txt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build/dependencies
COPY pyproject.toml constraints.txt ./
# What the package depends on is installed with an empty package of the same name, so that a change of the code leaves
# this layer as it is. A hundred megabytes that no role imports are left out.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    mkdir model_server && touch README.md model_server/__init__.py \
    && pip install --quiet '.[predictor,proxy,feedback,amqp]' \
    && cd /opt/model-server/lib/python3*/site-packages \
    && rm -r kubernetes/aio pandas/tests ai_edge_litert/libLiteRtWebGpuAccelerator.so

FROM builder AS tensorflow-builder
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --quiet '.[tensorflow]'

FROM builder AS wheel
WORKDIR /build/package
COPY pyproject.toml README.md LICENSE ./
COPY model_server model_server
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip wheel --quiet --no-deps --wheel-dir /wheel .

FROM builder AS runtime-installed
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-index --no-deps --force-reinstall /wheel/*.whl

FROM tensorflow-builder AS tensorflow-installed
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-index --no-deps --force-reinstall /wheel/*.whl

FROM builder AS test
# For the tests of the web page: Chromium, and what the program that steers it is linked to.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium libatomic1 \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --quiet '.[test]'
WORKDIR /build/repository
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --quiet --no-deps --force-reinstall --editable . \
    && useradd --uid 1000 --create-home tester && chown -R tester /build
USER 1000:1000
# What pytest is to run, such as tests/test_image.py; everything without.
ARG TESTS=
RUN PATH=/opt/model-server/bin:${PATH} python -m pytest ${TESTS}

# What the image says of itself, and how it runs. The code was compiled when it was installed, so the root may be
# read-only. There is no HEALTHCHECK: Kubernetes ignores it for probes of its own, and each role has another port.
FROM base AS application
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="model-server" \
      org.opencontainers.image.description="Image classification on Kubernetes: KServe predictor, queue-proxy and feedback" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin model-server
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE 8000 8001 8080 8081
ENTRYPOINT ["model-server"]
CMD ["predictor"]

FROM application AS tensorflow
COPY --from=tensorflow-installed /opt/model-server /opt/model-server

FROM application AS runtime
COPY --from=runtime-installed /opt/model-server /opt/model-server
