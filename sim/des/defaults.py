"""The defaults that an API server fills in, where something follows from them: the name of a Pod has a hash of its template."""

from __future__ import annotations

from core.kube import Json
from sim.cluster.apimachinery import builtin, schema, workload_rules

_RULES = {"Deployment": workload_rules.DEPLOYMENT, "DaemonSet": workload_rules.DAEMON_SET}
_SCHEMAS: dict[str, schema.Schema] = {}


def filled(obj: Json) -> Json:
    """The object with the defaults of its kind, as the imitated API server stores it; Deployments and DaemonSets only."""
    rules = _RULES.get(obj["kind"])
    if rules is None:
        return obj
    if not _SCHEMAS:
        _SCHEMAS.update(builtin.schemas())
    known: Json = schema.normalise(obj, _SCHEMAS[obj["kind"]], schema.Form(drop_null=True), [])
    return rules.fill(known)
