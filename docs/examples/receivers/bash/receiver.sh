#!/usr/bin/env bash
# A receiver for any server that speaks CGI, with bash and openssl alone: the headers are HTTP_… variables, the body is
# standard input. Prints the answer's status line.
set -euo pipefail

answer() {
    printf 'Status: %s\r\n\r\n' "$1"
    exit 0
}

id=${HTTP_WEBHOOK_ID:-} timestamp=${HTTP_WEBHOOK_TIMESTAMP:-}
[[ -n $id && $timestamp =~ ^[0-9]{1,12}$ ]] || answer 400
age=$(($(date +%s) - 10#$timestamp))
((age <= 300 && age >= -300)) || answer 400

# The body goes through a file, since a variable would lose its last line breaks; the key never becomes an argument of
# another program than openssl, which has it for a moment: use another language where strangers share the machine.
body=$(mktemp)
trap 'rm -f "$body"' EXIT
head -c "${CONTENT_LENGTH:-1048576}" >"$body"
key=$(printf %s "${RELAY_ENDPOINT_SECRET#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
expected=v1,$( (printf '%s.%s.' "$id" "$timestamp" && cat "$body") |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)

genuine=
for given in ${HTTP_WEBHOOK_SIGNATURE:-}; do
    [[ $given == "$expected" ]] && genuine=yes
done
[[ -n $genuine ]] || answer 400
cat "$body" >&2 # store it here: the same event may come again, with the same webhook-id
answer 204
