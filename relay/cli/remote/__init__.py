"""Commands that work over HTTP on a running relay, for its operators and its clients.

Each command reads where relay is from `--url`/`--profile`, `RELAY_URL` and `RELAY_API_KEY`, or the profile that `relay
login` wrote. Data goes to standard output, everything else to standard error.
"""
