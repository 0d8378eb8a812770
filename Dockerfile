# The relay and every other command: docker build -t configbus . && docker run configbus --help
# Domains of your own: FROM this image, COPY my_domains.py /app/, and name the module in CONFIGBUS_DOMAINS.

FROM python:3.13-slim AS build
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt hatchling \
    && python -m venv --without-pip /opt/configbus
COPY pyproject.toml README.md LICENSE ./
COPY configbus configbus
RUN pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels . \
    && pip --python /opt/configbus/bin/python install --no-cache-dir --constraint constraints.txt \
        "configbus[store,cli] @ file://$(ls /wheels/configbus-*.whl)"

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin configbus
COPY --from=build /opt/configbus /opt/configbus
WORKDIR /app
ENV PATH=/opt/configbus/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["configbus"]
CMD ["--help"]
