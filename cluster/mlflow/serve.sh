#!/usr/bin/env bash
# The tracking server of many studies: MLflow on PostgreSQL, with accounts, on loopback.
#
# What differs between places comes from the environment, and so does every secret: none is in a
# file here, or on a command line, where `ps` would show it. README.md names the variables; PGHOST,
# PGUSER, PGPASSWORD and their kin are those of PostgreSQL's own clients.
set -euo pipefail

: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?must be set: a random text that signs forms, the same at every start}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?must be set: where files of runs go, s3://bucket/path or a folder}"

export PGDATABASE="${PGDATABASE:-mlflow}"
export MLFLOW_BACKEND_STORE_URI=postgresql:///
MLFLOW_AUTH_CONFIG_PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/auth.ini"
export MLFLOW_AUTH_CONFIG_PATH
export MLFLOW_HOST="${MLFLOW_HOST:-127.0.0.1}" MLFLOW_PORT="${MLFLOW_PORT:-5000}"
# Names under which browsers and studies may call it; MLflow's default lets all private networks in.
export MLFLOW_SERVER_ALLOWED_HOSTS="${MLFLOW_SERVER_ALLOWED_HOSTS:-127.0.0.1:$MLFLOW_PORT,localhost:$MLFLOW_PORT}"
export MLFLOW_SERVER_X_FRAME_OPTIONS=DENY
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # for language models; eight processes less
export MLFLOW_DISABLE_TELEMETRY=true

# Under uvicorn, the default: MLflow checks hosts and origins under no other server.
exec mlflow server --app-name basic-auth --workers "${MLFLOW_WORKERS:-4}"
