# One pattern for every service: build with --build-arg SERVICE=<folder>, run with `python -m <module>`.
FROM python:3.11-slim-bookworm AS build
ARG SERVICE
WORKDIR /src
RUN python -m venv /venv
COPY requirements/runtime.txt requirements/runtime.txt
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY libs libs
COPY ${SERVICE} ${SERVICE}
RUN /venv/bin/pip install --no-cache-dir --no-deps ./libs/contracts ./libs/providers ./libs/chassis "./${SERVICE}"

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
# The compose file replaces the user by the one who owns the mounted keys.
USER 65534:65534
EXPOSE 8000
