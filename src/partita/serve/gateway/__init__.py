"""The gateway: it takes queries over HTTP and gRPC, has workers answer them in time, and hands the answers back.

The way of a query, file by file:

    http_server  reads a request (`http_message` its bytes, `http_api` what is at its path); or `grpc_server`
    oip_json     makes a query of its body, checked against the model's signature (`oip`)
    gateway      finds the route of its service
    route        counts it, asks the dispatcher (`serve.dispatching`), and executes what that decides
    link         sends the batch to the worker

The answer comes by `link`, `gateway`, `route` and the dispatcher, and `route` hands it to whoever asked:
`http_server` writes it with `oip_json`. Beside the way stand `statistics` and `metrics` (what is counted), `watchdog`
(which workers hang), `access` (who may ask), and `server`, which starts all of it and ends it in order.
"""
