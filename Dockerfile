# Serves prompts (docs/deploying.md):
#
#   docker build --tag prompt-tuning .
#   docker run --publish=8000:8000 --volume=prompts:/prompts --volume=jobs:/jobs \
#     --volume="$PWD/checkpoints/t5_small:/model:ro" \
#     --volume="$PWD/keys:/keys:ro" prompt-tuning
FROM python:3.11-slim

WORKDIR /app
# Dependencies come first, so that their layer stays when the code changes.
COPY constraints.txt constraints-build.txt ./
RUN pip install --no-cache-dir --require-hashes \
  --requirement=constraints-build.txt \
  && pip install --no-cache-dir --require-hashes --no-deps \
  --no-build-isolation --requirement=constraints.txt
# --build-arg=ACCELERATOR=cuda12 adds JAX's plugin for GPUs, without hashes.
ARG ACCELERATOR=""
RUN test -z "$ACCELERATOR" || pip install --no-cache-dir "jax[$ACCELERATOR]==$( \
  python -c "from importlib.metadata import version as v; print(v('jax'))")"
COPY pyproject.toml README.md ./
COPY runtime runtime
COPY gin gin
COPY prompt_tuning prompt_tuning
RUN pip install --no-cache-dir --no-deps --no-build-isolation . ./runtime \
  && rm -r /app/*

RUN useradd --create-home server \
  && mkdir /prompts /jobs && chown server /prompts /jobs
USER server
WORKDIR /home/server
VOLUME ["/prompts", "/jobs"]
EXPOSE 8000
HEALTHCHECK --start-period=5m CMD python -c \
  "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"
# The server gets SIGTERM itself, and finishes the requests it has.
ENTRYPOINT ["prompt-tuning", "serve", "--host=0.0.0.0", \
  "--prompts=/prompts", "--jobs=/jobs"]
CMD ["--checkpoint=/model", "--keys=/keys"]
