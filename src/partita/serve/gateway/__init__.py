"""The gateway: accepts queries over HTTP and gRPC, has workers answer them in time, and returns the answers.

A query passes these files:

    http_server  reads a request (`http_message` its bytes, `http_api` its path); or `grpc_server`
    oip_json     reads the query in its body, and checks it against the model's signature (`oip`)
    gateway      finds the route of its service
    route        counts it, asks the dispatcher (`serve.dispatching`), and executes the decisions
    link         sends the batch to the worker

The answer returns through `link`, `gateway`, `route` and the dispatcher, and `http_server` writes it with `oip_json`.
Other files are `statistics` and `metrics` (counters), `watchdog` (workers that hang), `access` (authentication), and
`server`, which starts everything and ends it in order.
"""
