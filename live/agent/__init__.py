"""The agents: one process each, one file each. What they have in common is in this folder's other files.

* `process` holds an agent together: options, logs, the Kubernetes client, the queue, the servers, an orderly end.
* `serve` answers ``/healthz``, ``/readyz`` and ``/metrics``; `health` and `metrics` hold what it answers with.
* `programmed` tells the router agent of a Pod what the load balancer of the same Pod has programmed.
* `logs` writes one JSON object a line on stderr.

Every agent is level-triggered: whatever happens (an object changes, BIRD dies, a neighbour moves), it looks at everything again and
makes the kernel agree. It may be killed and started at any moment: what it has put into the kernel stays, and it adopts it.
Ready means programmed, not started.
"""
