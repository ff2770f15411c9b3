"""The gateway: it takes queries over HTTP and gRPC, has workers answer them in time, and hands the answers back.

The way of a query, file by file:

    http_server  reads a request (`http_message` its bytes, `http_api` what is at its path); or `grpc_server`
    oip_json     makes a query of its body, checked against the model's signature (`oip`)
    gateway      finds the route of its service
    route        counts it, asks the dispatcher, and executes what that decides
    dispatcher   refuses, queues or starts it, by the router's policy; it has no I/O and no clock
    fleet        says who is idle, how long each takes (`estimates`), what a second is worth, who can be trusted
    link         sends the batch to the worker

The answer comes by `link`, `gateway`, `route` and `dispatcher`, and `route` hands it to whoever asked: `http_server`
writes it with `oip_json`. `query` has the values that dispatcher, fleet and routers share. Beside the way stand
`statistics` and `metrics` (what is counted), `watchdog` (which workers hang), `access` (who may ask), and `server`,
which starts all of it and ends it in order.
"""
