#!/usr/bin/env bash
# Train one job with a frozen weight with curl alone, fetch its evidence, and verify it offline.
#   examples/job.sh FOLDER
set -euo pipefail

url=${PERMAFROST_URL:-http://127.0.0.1:8000}
folder=${1:-permafrost-example}
curl=(curl -fsS)
[ -z "${PERMAFROST_API_KEY:-}" ] || curl+=(-H "Authorization: Bearer $PERMAFROST_API_KEY")
# A field of a JSON answer, without jq: field NAME [NAME ...] < answer
field() { python3 -c 'import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1:]: value = value[name]
print(value)' "$@"; }

mkdir -p "$folder/result"
cd "$folder"

# 1. A training file: four numbers and the number to predict from them.
for a in 1 2 3 4 5 6 7 8; do
  echo "{\"x\": [$a, 0.5, 1.5, 2.5], \"y\": $((a * 2))}"
done > train.jsonl
file=$("${curl[@]}" "$url/v1/files" -F purpose=fine-tune -F file=@train.jsonl | field id)

# 2. A job: the weight stays, the bias learns.
job=$("${curl[@]}" "$url/v1/fine_tuning/jobs" -H 'Content-Type: application/json' -d '{
  "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 4, "out_features": 1}},
  "training_file": "'"$file"'",
  "freeze_policy": {"freeze": ["weight"], "mechanism": "requires_grad"}
}' | field id)
echo "$job: $url/jobs/$job"

# 3. Wait for its end. `Prefer: wait` holds the answer until something changes.
status=queued
while [ "$status" != succeeded ] && [ "$status" != failed ] && [ "$status" != cancelled ]; do
  "${curl[@]}" -H 'Prefer: wait=5' -o job.json "$url/v1/fine_tuning/jobs/$job"
  status=$(field status < job.json)
done
echo "$status, evidence $(field evidence verdict < job.json)"
[ "$status" = succeeded ]

# 4. What an auditor gets: the attestation, the public keys, the result's files.
"${curl[@]}" -o attestation.json "$url/v1/fine_tuning/jobs/$job/attestation"
"${curl[@]}" -o keys.json "$url/v1/signing_keys"
model=$(field fine_tuned_model < job.json)
"${curl[@]}" "$url/v1/models/$model" | python3 -c 'import json, sys; [print(f["name"]) for f in json.load(sys.stdin)["files"]]' |
  while read -r name; do
    "${curl[@]}" -o "result/$name" "$url/v1/models/$model/files/$name"
  done

# 5. Verify offline. The base's root pins the frozen bytes, whatever the signer says.
permafrost verify attestation.json --key keys.json --result result --base-root "$(field evidence base_root < job.json)"
