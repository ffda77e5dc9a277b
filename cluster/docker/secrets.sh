#!/usr/bin/env bash
# Draws the passwords of compose.yaml into .env beside it, once: readable to you alone, and ignored by git.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
[ ! -e .env ] || { echo "error: .env is there already; delete it to draw new ones (volumes keep the old)" >&2; exit 2; }
for name in RAY_AUTH_TOKEN STORAGE_KEY_ID STORAGE_SECRET POSTGRES_PASSWORD GRAFANA_PASSWORD; do
  printf '%s=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
done > .env
echo "wrote $PWD/.env. segdist needs the token, too:  set -a; . $PWD/.env; set +a"
